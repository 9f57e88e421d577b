r"""Draw training images as the model will see them: augmented, with their boxes, masks and class names, on one sheet.

Look at it before a long training: it comes from the training's own mapper, in the size that the model pads to.

Examples:
    hiera-det draw-augmented --config-file configs/mask_rcnn_hiera_b.yaml \
        --train-json train.json --train-images images/train --output sheet.png
    hiera-det draw-augmented --config-file configs/mask_rcnn_hiera_b.yaml --output sheet.png --count 32 SEED 7
"""

from __future__ import annotations

import argparse
import logging
import os

from hiera_det.api.needs import need_detectron2
from hiera_det.cli.command import command_parser
from hiera_det.errors import InputError


def argument_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = command_parser("draw-augmented", __doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the training's config")
    parser.add_argument("--train-json", metavar="FILE", help="annotations to train on; classes are taken from it")
    parser.add_argument("--train-images", metavar="DIR", help="the folder that its file names are relative to")
    parser.add_argument("--output", required=True, metavar="FILE", help="the sheet, a .png")
    parser.add_argument("--count", type=int, default=16, help="pictures on it (default: %(default)s)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys, last")
    return parser


def main() -> None:
    """Draw the sheet and print its path."""
    args = argument_parser().parse_args()
    if not args.output.lower().endswith(".png"):
        raise InputError(f"--output {args.output}: the sheet is a PNG; name a .png file")
    if os.path.exists(args.output):
        raise InputError(f"--output {args.output}: is there already; name another file, or remove it")
    if args.count < 1:
        raise InputError(f"--count {args.count}: give the number of pictures, at least 1")
    need_detectron2()
    from hiera_det.d2.config.load import load_config
    from hiera_det.d2.data.contact_sheet import draw_augmented
    from hiera_det.d2.data.datasets import own_data_config
    from hiera_det.d2.data.registered import check_registered
    from hiera_det.engine.randomness import seed_all

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    cfg = load_config(args.config_file, args.opts)
    own_data_config(cfg, args.train_json, args.train_images, opts=args.opts)
    check_registered(cfg, test=False)
    if not cfg.DATASETS.TRAIN:
        raise InputError("nothing to draw: give --train-json and --train-images, or set DATASETS.TRAIN")
    if cfg.SEED >= 0:
        seed_all(cfg.SEED)
    print(draw_augmented(cfg, args.output, args.count))
