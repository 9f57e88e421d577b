#!/usr/bin/env python3
"""Classify images or videos with a trained classifier, or measure its accuracy on a folder of class folders."""

from hiera_det.cli.classify import main
from hiera_det.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
