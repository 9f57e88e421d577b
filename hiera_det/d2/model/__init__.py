"""Backbone and heads for detectron2."""
