"""Write a run's report.html: curves, AP by class and size, what is missed and mixed up, the best and worst images.

A training writes it after each evaluation by itself. This writes it anew from what the run has left in its folder: of a
detector its metrics and the last evaluation's detections, of a classifier or a masked autoencoder curves and pictures.
The page is one file that needs no network.

Example:
    hiera-det report --run output/mine
"""

from __future__ import annotations

import argparse
import logging

from hiera_det.cli.command import command_parser


def argument_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = command_parser("report", __doc__)
    parser.add_argument("--run", required=True, metavar="DIR", help="output folder of a training")
    return parser


def main() -> None:
    """Write it, and print where it is."""
    args = argument_parser().parse_args()
    from hiera_det.api.run import open_run

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    print(open_run(args.run).report())
