#!/usr/bin/env python3
"""Pretrain a Hiera as a masked autoencoder on a folder of images or videos; no labels needed."""

from hiera_det.cli.pretrain_mae import main
from hiera_det.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
