r"""Train and evaluate a detector on a Hiera backbone.

Examples:
    hiera-det train --config-file configs/mask_rcnn_hiera_b.yaml --num-gpus 8
    hiera-det train --config-file configs/mask_rcnn_hiera_t_1x.yaml \
        --train-json train.json --train-images images/train --val-json val.json --val-images images/val
    hiera-det train --config-file configs/mask_rcnn_hiera_t_1x.yaml --data roboflow_export
    hiera-det train --config-file configs/mask_rcnn_hiera_t_1x.yaml --split 0.8 \
        --train-json a.json --train-images images/a --train-json b.json --train-images images/b
    hiera-det train --config-file configs/mask_rcnn_hiera_b.yaml --num-gpus 8 --dry-run
    hiera-det train --config-file configs/mask_rcnn_hiera_b.yaml --eval-only MODEL.WEIGHTS model_final.pth
    torchrun --nproc-per-node 8 --max-restarts 3 -m hiera_det train --config-file configs/mask_rcnn_hiera_b.yaml
"""

from __future__ import annotations

import argparse
import sys

from hiera_det.api.needs import need_detectron2
from hiera_det.cli import train_torchvision
from hiera_det.cli.command import command_parser
from hiera_det.cli.detector_flags import greet, run_request, training_parser


def argument_parser() -> argparse.ArgumentParser:
    """The flags of both training tools, and what helps before a run."""
    parser = training_parser("train", __doc__, "config keys with their values")
    _add_framework(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, take 3 steps and evaluate one batch, print what the whole run will take, keep nothing",
    )
    parser.add_argument("--gpu-price", type=float, default=0.0, metavar="P", help="of a GPU-hour, for --dry-run")
    return parser


def _add_framework(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--framework",
        choices=("detectron2", "torchvision"),
        default="detectron2",
        help="torchvision has flags of its own, which --framework torchvision --help lists (default: detectron2)",
    )


def main() -> None:
    """Train, evaluate or try out, in as many processes as the flags ask for."""
    chooser = command_parser("train", __doc__, add_help=False, allow_abbrev=False)
    _add_framework(chooser)
    chosen, rest = chooser.parse_known_args()
    if chosen.framework == "torchvision":
        sys.argv[1:] = rest
        train_torchvision.main()
        return
    args = argument_parser().parse_args()
    greet("train", args.config_file)
    need_detectron2()
    from hiera_det.d2.config.load import load_config
    from hiera_det.d2.train.run import start

    request = run_request(args, lambda: str(load_config(args.config_file, args.opts).OUTPUT_DIR))
    start(request, args.gpu_price)
