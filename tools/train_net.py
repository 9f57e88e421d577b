#!/usr/bin/env python3
"""Train and evaluate a detector on a Hiera backbone.

Examples:
    python tools/train_net.py --config-file configs/mask_rcnn_hiera_b.yaml --num-gpus 8
    python tools/train_net.py --config-file configs/mask_rcnn_hiera_t.yaml \
        --train-json train.json --train-images images/train --val-json val.json --val-images images/val
    python tools/train_net.py --config-file configs/mask_rcnn_hiera_b.yaml --eval-only MODEL.WEIGHTS model_final.pth
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import OrderedDict
from typing import Any

from hiera_det.errors import run_tool

try:
    # isort: split
    from detectron2.config import CfgNode
    from detectron2.engine import default_argument_parser, default_setup, launch
    from detectron2.evaluation import verify_results
    from detectron2.utils import comm
    from detectron2.utils.logger import setup_logger

    import hiera_det.d2  # noqa: F401  first: registers backbones and heads, says how to install detectron2
    from hiera_det.d2.checkpoint import HieraCheckpointer, check_weights
    from hiera_det.d2.setup import setup_config
    from hiera_det.d2.trainer import Trainer
except ImportError as error:
    sys.exit(f"error: {error}")


def argument_parser() -> argparse.ArgumentParser:
    """detectron2's flags and your own data's paths."""
    parser = default_argument_parser(epilog=__doc__)
    data = parser.add_argument_group("your own data, in COCO format")
    data.add_argument("--train-json", metavar="FILE", help="annotations to train on; classes are taken from it")
    data.add_argument("--train-images", metavar="DIR", help="the folder that its file names are relative to")
    data.add_argument("--val-json", metavar="FILE", help="annotations to evaluate on")
    data.add_argument("--val-images", metavar="DIR", help="the folder that its file names are relative to")
    return parser


def run(args: argparse.Namespace, check_files: bool) -> OrderedDict[str, Any] | None:
    """Train, or evaluate only; runs in every process."""
    setup_logger(distributed_rank=comm.get_rank(), name="hiera_det")
    cfg = setup_config(args, check_files=check_files)
    default_setup(cfg, args)
    logging.getLogger("hiera_det").handlers.clear()  # once more, now into the output folder too
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="hiera_det")
    if args.eval_only:
        return evaluate(cfg, resume=args.resume)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def evaluate(cfg: CfgNode, resume: bool) -> OrderedDict[str, Any]:
    """Evaluate ``MODEL.WEIGHTS``, or the output folder's last checkpoint."""
    model = Trainer.build_model(cfg)
    checkpointer = HieraCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
    if resume:
        checkpointer.resume_or_load("", resume=True)
    else:
        checkpointer.load_detector(cfg.MODEL.WEIGHTS)
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def main() -> None:
    """Parse the command line and start as many processes as it asks for."""
    args = argument_parser().parse_args()
    workers = args.num_gpus > 1 or args.num_machines > 1
    if workers:
        check_weights(setup_config(args))  # once here, where a mistake ends in one line instead of one per process
    launch(
        run,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args, not workers),
    )


if __name__ == "__main__":
    run_tool(main)
