#!/usr/bin/env python3
"""Train a classifier on folders of images, one folder per class, and measure its accuracy after every epoch."""

from hiera_det.cli.train_classifier import main
from hiera_det.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
