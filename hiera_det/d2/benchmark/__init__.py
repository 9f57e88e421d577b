"""Whole detectors to be measured."""
