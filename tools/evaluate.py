#!/usr/bin/env python3
"""Score a results file, ours or another tool's, against a COCO JSON."""

from hiera_det.cli.evaluate import main
from hiera_det.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
