#!/usr/bin/env python3
"""Print what each config's training is for a data set of so many images, as the table of docs/training.md."""

from hiera_det.cli.print_schedules import main
from hiera_det.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
