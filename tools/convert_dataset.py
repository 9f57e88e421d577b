#!/usr/bin/env python3
"""Write a data set of YOLO, Pascal VOC or labelme as a COCO JSON, and check it."""

from hiera_det.cli.convert_dataset import main
from hiera_det.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
