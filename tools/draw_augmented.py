#!/usr/bin/env python3
"""Draw training images as the model will see them: augmented, with their boxes, masks and class names, on one sheet."""

from hiera_det.cli.draw_augmented import main
from hiera_det.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
