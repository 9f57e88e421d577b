"""Prediction, evaluation and pictures."""
