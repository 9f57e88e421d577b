"""Rewrite a Hiera weight file in another package's layout, or say what a file is.

IN is a file or folder, https://..., hf://owner/name or timm://name; its layout is recognised by its tensors' names.

Examples:
    hiera-det convert-weights --inspect mae_hiera_base_224.pth
    hiera-det convert-weights mae_hiera_base_224.pth hiera_base_hf --to hf
    hiera-det convert-weights output/model_final.pth trunk.safetensors --to timm
"""

from __future__ import annotations

import argparse
import logging

from hiera_det.cli.command import command_parser
from hiera_det.errors import InputError, printable
from hiera_det.weights.layouts import TARGETS


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("convert-weights", __doc__)
    parser.add_argument("source", metavar="IN", help="the weight file")
    parser.add_argument(
        "out", metavar="OUT", nargs="?", help="file ending in .safetensors, .pth, .pt or .bin; for hf also a folder"
    )
    parser.add_argument(
        "--to",
        choices=TARGETS,
        default="hiera_det",
        help="whose names: our own (default); the authors' (SAM 2's for a HieraDet); transformers'; timm's; those "
        "that detectron2's own checkpointer loads into a model with our backbone",
    )
    parser.add_argument("--inspect", action="store_true", help="say what IN is, and write nothing")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT where it is there already")
    return parser


def main() -> None:
    """Inspect or convert."""
    args = argument_parser().parse_args()
    from hiera_det.weights.convert import convert, write
    from hiera_det.weights.inspect import describe
    from hiera_det.weights.load import read_contents

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.inspect == bool(args.out):
        raise InputError("give IN and OUT to convert, or --inspect IN alone")
    contents = read_contents(args.source)
    if args.inspect:
        print(describe(contents))
        return
    converted = convert(contents, args.to)
    written = write(converted, args.out, overwrite=args.overwrite)
    dropped = f"; {len(converted.dropped)} have no place there: {', '.join(converted.dropped[:4])}"
    print(
        f"{contents.model_name} ({contents.kind}): {len(converted.tensors)} tensors in {converted.layout.title} layout"
        + (printable(dropped) + (", ..." if len(converted.dropped) > 4 else "") if converted.dropped else "")
    )
    print(*written, sep="\n")
