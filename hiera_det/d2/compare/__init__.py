"""Detectors that differ in one thing, trained under equal seconds of computing."""
