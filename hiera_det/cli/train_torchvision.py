r"""Train and evaluate one of torchvision's detectors on a Hiera backbone, on a COCO JSON; detectron2 need not be there.

Leaves model_final.pth, which knows its classes; checkpoint.pth, metrics.json, report.html and curves.png. SIGTERM and
Ctrl-C save a checkpoint first. From Python, hiera_det.adapters.torchvision.load_detector reads the file.

Examples:
    hiera-det train --framework torchvision --size tiny --weights mae_hiera_tiny_224.pth --output output/mine \
        --train-json train.json --train-images images/train --val-json val.json --val-images images/val
    hiera-det train --framework torchvision --detector retinanet --size base --epochs 12 --batch-size 16 --num-gpus 8 \
        --train-json train.json --train-images images/train --val-json val.json --val-images images/val \
        --weights hf://facebook/hiera-base-224-mae-hf --output output/retinanet
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from hiera_det.cli.flags import (
    add_data_flags,
    add_evaluation_flags,
    add_image_flags,
    add_model_flags,
    add_training_flags,
    settled_paths,
    training_parser,
)
from hiera_det.errors import InputError
from hiera_det.extras import need


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = training_parser("train --framework torchvision", __doc__)
    parser.add_argument("--output", metavar="DIR", required=True)
    parser.add_argument(
        "--detector", metavar="NAME", help="maskrcnn, fasterrcnn, retinanet or fcos (default: maskrcnn)"
    )
    parser.add_argument("--weights", metavar="FILE", help="of the trunk: a file, URL, hf:// or timm://")
    add_data_flags(parser)
    add_model_flags(parser, "the shorter side of the images (default: 800)")
    parser.add_argument("--max-size", type=int, metavar="PIXELS", help="the longer side (default: 5/3 of the shorter)")
    parser.add_argument(
        "--options",
        type=_options,
        metavar="JSON",
        help="more arguments of the detector's, such as '{\"box_score_thresh\": 0.01}'",
    )
    add_training_flags(parser, batch_size=2, scaled="by the square root")
    add_image_flags(parser, "fail", "another, which the seed decides, takes its place; it is left out of an evaluation")
    add_evaluation_flags(parser, "bbox/AP", batch_size=1)
    return parser


def _options(text: str) -> dict[str, Any]:
    """An object of JSON."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text}: give an object of JSON, such as '{{\"box_score_thresh\": 0.01}}'")
    return value


def main() -> None:
    """Check, start the processes, train."""
    args = argument_parser().parse_args()
    need("torchvision", "the detector")
    own = settled_paths(args, lambda: os.path.join(args.output, "data"))
    if not own["train_json"]:
        raise InputError("nothing to train on: give --train-json and --train-images, or --data DIR")
    for name, path in own.items():
        delattr(args, name) if path is None else setattr(args, name, path)
    from hiera_det.adapters.torchvision.settings import DetectorSettings
    from hiera_det.adapters.torchvision.train import read_inputs, train
    from hiera_det.cli.processes import machines, settings_from
    from hiera_det.tasks.processes import train_everywhere

    train_everywhere(train, read_inputs, settings_from(DetectorSettings, args), **machines(args))
