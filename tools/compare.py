#!/usr/bin/env python3
"""Compare trunks or settings under equal seconds of training."""

from hiera_det.cli.compare import main
from hiera_det.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
