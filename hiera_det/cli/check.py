"""Check a COCO JSON and its images before a training: what is wrong, what is odd, and what to do about it.

Errors are what training refuses; warnings are what it takes, though the result may not be what you want. Exits with 0
where there is no error, else with 2.

Examples:
    hiera-det check train.json images
    hiera-det check train.json images --fix mended.json
    hiera-det check train.json images --pixels --pictures sheet.png --json findings.json
    hiera-det check train.json images --val-json val.json --val-images images
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hiera_det.cli.command import command_parser
from hiera_det.errors import EXIT_BAD_INPUT, InputError, printable
from hiera_det.extras import need
from hiera_det.files import refuse_input

if TYPE_CHECKING:
    from hiera_det.data.coco.findings import Finding


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("check", __doc__)
    parser.add_argument("annotations", metavar="JSON", help="the COCO JSON")
    parser.add_argument("images", metavar="DIR", help="the folder that its file names are relative to")
    parser.add_argument("--val-json", metavar="FILE", help="that of evaluation: checked too, and compared")
    parser.add_argument("--val-images", metavar="DIR", help="its folder (default: DIR)")
    parser.add_argument("--pixels", action="store_true", help="decode each image; remembered until a file changes")
    parser.add_argument("--max-pixels", type=int, metavar="N", help="largest image (default: 100 million pixels)")
    parser.add_argument("--fix", metavar="OUT.json", help="write a copy with what can be mended safely")
    parser.add_argument("--pictures", metavar="OUT.png", help="draw a sheet of annotated images")
    parser.add_argument("--count", type=int, default=16, help="pictures on the sheet (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the findings there too; - prints them, and nothing else")
    return parser


def main() -> None:
    """Check, print, and write what was asked for."""
    args = argument_parser().parse_args()
    _check_arguments(args)
    need("PIL", "hiera-det check", "pillow")
    from hiera_det.data.coco.check import Look, inspect_coco
    from hiera_det.data.coco.compare import compare_splits
    from hiera_det.data.images import MAX_PIXELS

    look = Look(
        every_header=True,
        pixels=args.pixels,
        max_pixels=args.max_pixels or MAX_PIXELS,
        progress=_show_progress if args.pixels else None,
    )
    pairs = [(args.annotations, args.images)]
    if args.val_json:
        pairs.append((args.val_json, args.val_images or args.images))
    looked = [inspect_coco(*pair, look) for pair in pairs]
    found = [finding for _, findings in looked for finding in findings.as_list()]
    summaries = [summary for summary, _ in looked if summary]
    if len(summaries) == 2:  # comparing needs both to be readable
        found += compare_splits(*summaries)
    if args.json != "-":  # then the output is for a program, and JSON alone
        print("\n".join(summary.table() for summary in summaries))
        _print(found)
    _write(args, found)
    if any(finding.severity == "error" for finding in found):
        sys.exit(EXIT_BAD_INPUT)


def _check_arguments(args: argparse.Namespace) -> None:
    if args.val_images and not args.val_json:
        raise InputError(f"--val-images {args.val_images} needs --val-json, the JSON that describes them")
    if args.count < 1:
        raise InputError(f"--count {args.count}: give the number of pictures, at least 1")
    if args.max_pixels is not None and args.max_pixels < 1:
        raise InputError(f"--max-pixels {args.max_pixels}: give a number of pixels, at least 1")
    if args.pictures and not args.pictures.lower().endswith(".png"):
        raise InputError(f"--pictures {args.pictures}: the sheet is a PNG; name a .png file")
    if args.json:
        refuse_input(args.json, "--json", filter(None, (args.annotations, args.val_json)))
    for flag, path in (("--fix", args.fix), ("--pictures", args.pictures)):
        if path and os.path.exists(path):
            raise InputError(f"{flag} {path}: is there already; name another file, or remove it")


def _show_progress(done: int, total: int) -> None:
    end = "\r" if sys.stderr.isatty() and done < total else "\n"
    print(f"decoded {done} of {total} images", end=end, file=sys.stderr, flush=True)


def _print(found: Sequence[Finding]) -> None:
    for severity in ("error", "warning", "note"):
        own = [finding for finding in found if finding.severity == severity]
        if own:
            print(f"\n{len(own)} {severity}{'s' if len(own) > 1 else ''}:")
        for finding in own:
            print(f"  {finding.kind}: {printable(f'{finding.file}: {finding.text}')}")
            if finding.remedy:
                print(f"    -> {printable(finding.remedy)}")
    if not any(finding.severity == "error" for finding in found):
        print("\nno errors: ready to train")


def _write(args: argparse.Namespace, found: Sequence[Finding]) -> None:
    """Write the files that were asked for, and print their paths last."""
    from hiera_det.data.coco.read import read_coco
    from hiera_det.data.coco.repair import repair_coco_json
    from hiera_det.files import write_atomically
    from hiera_det.report.annotations import draw_annotations

    out = sys.stderr if args.json == "-" else sys.stdout
    if args.json:
        content = json.dumps([dataclasses.asdict(finding) for finding in found], indent=1)
        if args.json == "-":
            print(content)
        else:
            write_atomically(args.json, lambda file: file.write(content.encode()))
            print(args.json)
    if args.fix:
        for what, count in repair_coco_json(args.annotations, args.images, args.fix).items():
            print(f"mended: {printable(what)} ({count})", file=out)
        print(args.fix, file=out)
    if args.pictures:
        contents = read_coco(args.annotations).contents
        if contents is None:
            raise InputError(f"--pictures {args.pictures}: nothing is drawn of a JSON with errors; mend it first")
        print(draw_annotations(contents, args.images, args.pictures, args.count), file=out)
