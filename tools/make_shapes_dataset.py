#!/usr/bin/env python3
"""Make the built-in synthetic data set: circles, triangles, rectangles, stars and crosses, in COCO format."""

from hiera_det.cli.make_shapes import main
from hiera_det.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
