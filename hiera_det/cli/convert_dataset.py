"""Write a data set of YOLO, Pascal VOC or labelme as a COCO JSON, and check it.

Images stay where they are; the last two lines are the JSON and the image folder to give with it. Convert what is
trained on first, and give its JSON as --classes of the others, so that all have the same classes in one order.

Examples:
    hiera-det convert-dataset datasets/signs train.json --split train
    hiera-det convert-dataset datasets/signs val.json --split val --classes train.json
    hiera-det convert-dataset VOC2012 val.json --split val
    hiera-det convert-dataset photos train.json --format labelme
"""

from __future__ import annotations

import argparse
import os

from hiera_det.cli.command import command_parser
from hiera_det.errors import InputError, printable
from hiera_det.extras import need


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("convert-dataset", __doc__)
    parser.add_argument("source", metavar="SOURCE", help="the data set's folder; for YOLO its data.yaml too")
    parser.add_argument("out", metavar="OUT.json", help="the COCO JSON")
    parser.add_argument("--format", choices=("yolo", "voc", "labelme"), help="default: recognised by its files")
    parser.add_argument("--split", metavar="NAME", help="train (YOLO's default), val, test; VOC: a list, default all")
    parser.add_argument("--classes", metavar="FILE", help="class names, one a line, or a COCO JSON: fixes their order")
    return parser


def main() -> None:
    """Convert, check, and print what was made."""
    args = argument_parser().parse_args()
    if os.path.exists(args.out):
        raise InputError(f"{args.out}: is there already; name another file, or remove it")
    need("PIL", "hiera-det convert-dataset", "pillow")
    from hiera_det.data.coco.check import check_coco_json
    from hiera_det.data.convert.detect import convert_dataset

    made = convert_dataset(args.source, args.out, format=args.format, split=args.split, classes=args.classes)
    summary = check_coco_json(args.out, made.image_root, require_annotations=False)
    print(summary.table())
    for what, count in made.notes.items():
        print(f"note: {printable(what)} ({count})")
    for note in summary.notes:
        print(f"note: {note}")
    print(args.out)
    print(made.image_root)
