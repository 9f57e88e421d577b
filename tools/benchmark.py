#!/usr/bin/env python3
"""Time the trunk and the detector against their peers: one process, interleaved rounds, medians and ratios."""

from hiera_det.cli.benchmark import main
from hiera_det.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
