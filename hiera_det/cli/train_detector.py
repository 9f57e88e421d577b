"""Train and evaluate a detector on a Hiera backbone.

Examples:
    python tools/train_net.py --config-file configs/mask_rcnn_hiera_b.yaml --num-gpus 8
    python tools/train_net.py --config-file configs/mask_rcnn_hiera_t_1x.yaml \
        --train-json train.json --train-images images/train --val-json val.json --val-images images/val
    python tools/train_net.py --config-file configs/mask_rcnn_hiera_b.yaml --num-gpus 8 --dry-run
    python tools/train_net.py --config-file configs/mask_rcnn_hiera_b.yaml --eval-only MODEL.WEIGHTS model_final.pth
    torchrun --nproc-per-node 8 --max-restarts 3 tools/train_net.py --config-file configs/mask_rcnn_hiera_b.yaml
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

try:
    # isort: split
    import hiera_det.d2  # noqa: F401  first: registers backbones and heads, says how to install detectron2
    from hiera_det.cli.detector_flags import run_request, training_parser
    from hiera_det.d2.config.setup import setup_config, training_device
    from hiera_det.d2.train.checkpoint import check_weights
    from hiera_det.d2.train.launch import launch_tool
    from hiera_det.d2.train.run import train_by_yaml
except ImportError as error:
    sys.exit(f"error: {error}")


def argument_parser() -> argparse.ArgumentParser:
    """detectron2's flags, your own data's paths, and what helps before and after a run."""
    parser = training_parser(__doc__)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, take 3 steps and evaluate one batch, print what the whole run will take, keep nothing",
    )
    parser.add_argument("--gpu-price", type=float, default=0.0, metavar="P", help="of a GPU-hour, for --dry-run")
    return parser


def main() -> None:
    """Parse the command line and start as many processes as it asks for."""
    args = argument_parser().parse_args()
    request = run_request(args)
    start = partial(train_by_yaml, gpu_price=args.gpu_price)
    launch_tool(start, request, check=lambda: check_weights(setup_config(request)), device=training_device(request))
