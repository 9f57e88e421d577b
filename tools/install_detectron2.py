#!/usr/bin/env python3
"""Install detectron2 from its Git repository, or as pure Python where that cannot be reached."""

from hiera_det.cli.install_detectron2 import main
from hiera_det.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
