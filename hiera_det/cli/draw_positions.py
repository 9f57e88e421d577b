"""Draw one channel of a position embedding at 224 and at a larger size, under each way to fit it.

Without weights the table is made up: a random pattern that repeats with the 8x8 mask unit, as pretrained tables have
one, plus a slow wave.

Examples:
    hiera-det draw-positions docs/position_embeddings.png
    hiera-det draw-positions positions.png --weights mae_hiera_base_224.pth --channel 5 --size 800
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hiera_det.cli.command import command_parser
from hiera_det.errors import InputError


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("draw-positions", __doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="the picture, ending in .png, .jpg, .pdf or .svg")
    parser.add_argument("--weights", metavar="FILE", help="a file or address whose table is drawn")
    parser.add_argument("--channel", type=int, default=0, help="which channel of it")
    parser.add_argument("--size", type=int, default=1024, help="side of the larger image in pixels")
    return parser


def main() -> None:
    """Draw, and print where."""
    args = argument_parser().parse_args()
    if args.size < 224 or args.size % 32:
        raise InputError(f"--size {args.size}: give a multiple of 32 of at least 224")
    from hiera_det.report.positions import draw, made_up_table, table_of

    draw(table_of(args.weights, args.channel) if args.weights else made_up_table(), args.size, args.out)
    print(args.out)
