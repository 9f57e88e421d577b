r"""Train and evaluate a detector that a LazyConfig describes: a Python file, as ViTDet's are.

A LazyConfig is a program, and this tool runs it: give it only files that you trust. Keys are set by key=value at the
end of the command line. Nothing follows from another batch: set optimizer.lr and train.max_iter with it.

Examples:
    hiera-det train-lazy --config-file configs/lazy/mask_rcnn_hiera_b_100ep.py --num-gpus 8
    hiera-det train-lazy --config-file configs/lazy/mask_rcnn_hiera_t_100ep.py \
        --train-json train.json --train-images images/train --val-json val.json --val-images images/val \
        dataloader.train.total_batch_size=4 optimizer.lr=1e-5 train.max_iter=3000 train.output_dir=output/mine
    hiera-det train-lazy --config-file mask_rcnn_hiera_b_100ep --eval-only train.init_checkpoint=model_final.pth
"""

from __future__ import annotations

import argparse

from hiera_det.api.needs import need_detectron2
from hiera_det.cli.detector_flags import run_request, training_parser


def argument_parser() -> argparse.ArgumentParser:
    """The flags of both training tools."""
    return training_parser("train-lazy", __doc__, "key=value pairs", "train.output_dir")


def main() -> None:
    """Train or evaluate, in as many processes as the flags ask for."""
    args = argument_parser().parse_args()
    need_detectron2()
    from hiera_det.d2.lazy.files import load_lazy_config
    from hiera_det.d2.lazy.run import start

    start(run_request(args, lambda: str(load_lazy_config(args.config_file, args.opts).train.output_dir)))
