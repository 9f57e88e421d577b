#!/usr/bin/env python3
"""Train and evaluate a detector that a LazyConfig describes: a Python file, as ViTDet's are."""

from hiera_det.cli.train_lazy import main
from hiera_det.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
