#!/usr/bin/env python3
"""Train and evaluate a detector on a Hiera backbone."""

from hiera_det.cli.train_detector import main
from hiera_det.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
