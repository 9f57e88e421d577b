"""Make a built-in synthetic data set: circles, triangles, rectangles, stars and crosses, or cells, in COCO format.

Nothing is downloaded. The same settings give the same files, and a larger set begins with the smaller one. A folder
that already holds the data set with these settings is left as it is.

Examples:
    hiera-det make-shapes
    hiera-det make-shapes datasets/shapes_large --train 2000 --val 200 --size 384x512
    hiera-det make-shapes datasets/cells --kind cells
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from typing import Any

from hiera_det.cli.command import command_parser
from hiera_det.errors import InputError
from hiera_det.extras import need


def parse_size(text: str) -> tuple[int, int]:
    """``SIDE`` or ``HxW`` to height and width."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match:
        raise InputError(f"--size {text!r}: write a side, such as 256, or height x width, such as 384x512")
    return int(match[1]), int(match[2] or match[1])


def progress_bar() -> Callable[[int, int], None]:
    """A callback that shows images done and the time left, on stderr; with tqdm where it is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return plain_progress()
    bars: list[Any] = []  # opened with the first image: a refusal prints its one line only

    def show(done: int, total: int) -> None:
        if not bars:
            bars.append(tqdm(total=total, unit="image"))
        bars[0].update(done - bars[0].n)
        if done == total:
            bars[0].close()

    return show


def plain_progress() -> Callable[[int, int], None]:
    """A callback that prints a line at every tenth of the way."""
    start = time.monotonic()

    def show(done: int, total: int) -> None:
        if done == total or done * 10 // total > (done - 1) * 10 // total:
            left = (time.monotonic() - start) / done * (total - done)
            print(f"{done}/{total} images, {left:.0f} s left", file=sys.stderr, flush=True)

    return show


def argument_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = command_parser("make-shapes", __doc__)
    parser.add_argument("out", nargs="?", default="datasets/shapes", help="folder to make (default: %(default)s)")
    parser.add_argument("--train", type=int, default=400, help="training images (default: %(default)s)")
    parser.add_argument("--val", type=int, default=60, help="validation images (default: %(default)s)")
    parser.add_argument("--size", default="256", help="side, or height x width, in pixels (default: %(default)s)")
    parser.add_argument(
        "--kind",
        choices=("shapes", "cells"),
        default="shapes",
        help="one to six shapes of five classes, or dozens of small cells of two (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, other images (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace a shapes data set made with other settings")
    return parser


def main() -> None:
    """Make the data set and print where it is."""
    args = argument_parser().parse_args()
    need("numpy", "drawing the shapes")
    need("PIL", "drawing the shapes", "Pillow")
    from hiera_det.data.shapes import write_shapes_dataset

    paths = write_shapes_dataset(
        args.out,
        args.train,
        args.val,
        parse_size(args.size),
        args.seed,
        kind=args.kind,
        overwrite=args.overwrite,
        progress=progress_bar(),
    )
    if paths.reused:
        print(f"{args.out}: already there with these settings, left as it is")
    for name in ("train_json", "train_images", "val_json", "val_images", "preview"):
        print(f"{name.replace('_', ' ') + ':':14}{getattr(paths, name)}")
