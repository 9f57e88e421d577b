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
import logging
import sys
from collections import OrderedDict
from functools import partial
from typing import Any

try:
    # isort: split
    from detectron2.engine import default_setup
    from detectron2.utils import comm
    from detectron2.utils.logger import setup_logger

    import hiera_det.d2  # noqa: F401  first: registers backbones and heads, says how to install detectron2
    from hiera_det.cli.detector_flags import run_request, training_parser
    from hiera_det.d2.config.request import RunRequest
    from hiera_det.d2.config.setup import setup_config, training_device
    from hiera_det.d2.train.checkpoint import check_weights, decide_resume
    from hiera_det.d2.train.dry_run import dry_run
    from hiera_det.d2.train.launch import launch_tool
    from hiera_det.d2.train.trainer import Trainer
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


def run(request: RunRequest, check_files: bool, gpu_price: float) -> OrderedDict[str, Any] | None:
    """Train, evaluate only, or try out; runs in every process."""
    setup_logger(distributed_rank=comm.get_rank(), name="hiera_det")
    cfg = setup_config(request, check_files=check_files)
    if request.dry_run:
        forecast = dry_run(cfg)
        if comm.is_main_process():
            print(forecast.report(gpu_price))
        return None
    default_setup(cfg, request)
    logging.getLogger("hiera_det").handlers.clear()  # once more, now into the output folder too
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="hiera_det")
    if request.eval_only:
        return Trainer.evaluate_checkpoint(cfg, resume=request.resume)
    resume = decide_resume(cfg.OUTPUT_DIR, resume=request.resume, auto_resume=request.auto_resume)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer.train()


def main() -> None:
    """Parse the command line and start as many processes as it asks for."""
    args = argument_parser().parse_args()
    request = run_request(args)
    start = partial(run, gpu_price=args.gpu_price)
    launch_tool(start, request, check=lambda: check_weights(setup_config(request)), device=training_device(request))
