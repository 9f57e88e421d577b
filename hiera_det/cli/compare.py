r"""Compare trunks, or one setting at a time, under equal seconds of training: the process's own, not the wall clock's.

All detectors have the heads, the data pipeline and the solver of one config. A finished run is not run again; the same
command goes on with one that was stopped, and takes more --seeds, --trunks and --variant into the same table. Leaves
results.md, results.json and curves.png, and each run's folder.

Examples:
    hiera-det compare --made shapes --trunks quick_start resnet18_fpn --seconds 120 --output output/compare
    hiera-det compare --made cells --made-images 100 --seconds 60 --seeds 0 --dry-run
    hiera-det compare --train-json train.json --train-images images/train --val-json val.json --val-images images/val \
        --trunks quick_start --variant no_warm_up SOLVER.WARMUP_ITERS 0 --variant fast SOLVER.BASE_LR 7e-4 \
        --variant wide resnet50_fpn MODEL.FPN.OUT_CHANNELS 128 --output output/compare
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from hiera_det.api.needs import need_detectron2
from hiera_det.cli.command import command_parser
from hiera_det.cli.flags import add_data_flags, settled_paths
from hiera_det.errors import InputError
from hiera_det.extras import need

#: Data sets that are made.
MADE = ("shapes", "cells")
#: Images to evaluate on, of those.
HELD_OUT = 60


def argument_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = command_parser("compare", __doc__)
    parser.add_argument(
        "--config-file",
        default="quick_start",
        metavar="FILE",
        help="heads, data pipeline and solver of all (default: %(default)s)",
    )
    parser.add_argument(
        "--trunks",
        nargs="+",
        default=[],
        metavar="TRUNK",
        help="configs whose trunks are taken, resnet18_fpn, resnet34_fpn, resnet50_fpn (default: the config's own)",
    )
    parser.add_argument(
        "--variant",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "KEY VALUE"),
        help="the first trunk, or one that is named before the keys, with other config keys; the key SECONDS is a "
        "budget of its own; again for more",
    )
    parser.add_argument(
        "--set",
        nargs=2,
        action="append",
        default=[],
        metavar=("KEY", "VALUE"),
        help="config key of all; again for more",
    )
    parser.add_argument("--seconds", type=float, default=120.0, help="of a run's training (default: %(default)g)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="(default: 0 1 2)")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="shorter side (default: the config's)")
    parser.add_argument("--batch", type=int, metavar="N", help="images of a step (default: the config's)")
    parser.add_argument("--evaluations", type=int, default=5, metavar="N", help="of a run (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="PyTorch's (default: %(default)s)")
    parser.add_argument("--output", default="output/compare", metavar="DIR", help="(default: %(default)s)")
    parser.add_argument("--keep-weights", action="store_true", help="leave the checkpoints of finished runs")
    parser.add_argument("--dry-run", action="store_true", help="say what it would take, and keep nothing")
    add_data_flags(parser)
    group = parser.add_argument_group("or a data set that is made")
    group.add_argument("--made", choices=MADE, help="the built-in shapes, or many small cells")
    group.add_argument("--made-images", type=int, default=60, metavar="N", help="to train on (default: %(default)s)")
    return parser


def data_paths(args: argparse.Namespace) -> dict[str, str]:
    """The four paths of the data.

    Raises:
        InputError: there are none, or both given and made ones.
    """
    from hiera_det.data.coco.write import private_folder

    data = str(private_folder("data")) if args.dry_run else os.path.join(args.output, "data")
    own = {name: path for name, path in settled_paths(args, lambda: data).items() if path is not None}
    if bool(own) == bool(args.made):
        raise InputError("give data: --train-json and its like, --data, or --made shapes; one of them")
    if args.made:
        from hiera_det.data.shapes import write_shapes_dataset

        paths = write_shapes_dataset(f"{data}/{args.made}", args.made_images, HELD_OUT, kind=args.made)
        return {name: str(getattr(paths, name)) for name in ("train_json", "train_images", "val_json", "val_images")}
    if len(own) < 4:
        raise InputError("--train-json alone: runs are evaluated too; give --val-json and --val-images, or --split 0.8")
    return own


def main() -> None:
    """Compare, and print the table."""
    args = argument_parser().parse_args()
    need_detectron2()
    need("matplotlib", "drawing the curves")
    from hiera_det.api.keys import opts_of
    from hiera_det.d2.compare.plan import Comparison
    from hiera_det.d2.compare.run import compare
    from hiera_det.d2.compare.variants import read_variants
    from hiera_det.report.comparison import format_comparison

    trunks = args.trunks or [args.config_file]
    given: dict[str, Any] = {} if args.batch is None else {"batch_size": args.batch}
    words = [word for pair in args.set for word in pair]
    opts = opts_of(given, args.config_file, args.image_size, None, words)
    comparison = Comparison(
        config=args.config_file,
        variants=read_variants(args.config_file, trunks, args.variant),
        data=data_paths(args),
        output=args.output,
        seconds=args.seconds,
        seeds=args.seeds,
        evaluations=args.evaluations,
        threads=args.threads,
        opts=dict(zip(opts[0::2], opts[1::2], strict=True)),
        keep_weights=args.keep_weights,
    )
    content = compare(comparison, lambda line: print(line, flush=True), args.dry_run)
    if not args.dry_run:
        print(format_comparison(content))
        print(os.path.join(args.output, "curves.png"))
