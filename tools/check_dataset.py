#!/usr/bin/env python3
"""Check a COCO JSON and its images before a training: what is wrong, what is odd, and what to do about it."""

from hiera_det.cli.check import main
from hiera_det.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
