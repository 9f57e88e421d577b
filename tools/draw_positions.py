#!/usr/bin/env python3
"""Draw one channel of a position embedding at 224 and at a larger size, under each way to fit it."""

from hiera_det.cli.draw_positions import main
from hiera_det.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
