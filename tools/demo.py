#!/usr/bin/env python3
"""Predict on images with a trained detector: pictures with masks, boxes, class names and scores, and a JSON of them."""

from hiera_det.cli.predict import main
from hiera_det.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
