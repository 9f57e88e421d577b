"""Print what each config's training is for a data set of so many images, as the table of docs/training.md.

Example:
    hiera-det print-schedules --images 118287
"""

from __future__ import annotations

import argparse

from hiera_det.api.needs import need_detectron2
from hiera_det.cli.command import command_parser
from hiera_det.errors import InputError

COCO_TRAIN_2017 = 118287


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("print-schedules", __doc__)
    parser.add_argument("--images", type=int, default=COCO_TRAIN_2017, help="of an epoch; COCO's train2017 by default")
    return parser


def main() -> None:
    """Print the table."""
    images = argument_parser().parse_args().images
    if images < 1:
        raise InputError(f"--images {images}: give 1 or more")
    need_detectron2()
    from hiera_det.d2.train.schedule_table import schedule_table

    print(schedule_table(images))
