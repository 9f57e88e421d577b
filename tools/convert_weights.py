#!/usr/bin/env python3
"""Rewrite a Hiera weight file in another package's layout, or say what a file is."""

from hiera_det.cli.convert_weights import main
from hiera_det.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
