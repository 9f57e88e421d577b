"""Train and evaluate a detector that a LazyConfig describes: a Python file, as ViTDet's are.

A LazyConfig is a program, and this tool runs it: give it only files that you trust. Keys are set by key=value at the
end of the command line. Nothing follows from another batch: set optimizer.lr and train.max_iter with it.

Examples:
    python tools/lazyconfig_train_net.py --config-file configs/lazy/mask_rcnn_hiera_b_100ep.py --num-gpus 8
    python tools/lazyconfig_train_net.py --config-file configs/lazy/mask_rcnn_hiera_t_100ep.py \
        --train-json train.json --train-images images/train --val-json val.json --val-images images/val \
        dataloader.train.total_batch_size=4 optimizer.lr=1e-5 train.max_iter=3000 train.output_dir=output/mine
    python tools/lazyconfig_train_net.py --config-file configs/lazy/mask_rcnn_hiera_b_100ep.py --eval-only \
        train.init_checkpoint=model_final.pth
"""

from __future__ import annotations

import logging
import sys

try:
    # isort: split
    from detectron2.engine import default_setup
    from detectron2.utils import comm
    from detectron2.utils.logger import setup_logger

    import hiera_det.d2  # noqa: F401  first: says how to install detectron2
    from hiera_det.cli.detector_flags import run_request, training_parser
    from hiera_det.d2.config.request import RunRequest
    from hiera_det.d2.lazy.setup import setup_lazy_config, training_device
    from hiera_det.d2.lazy.trainer import trainer_class
    from hiera_det.d2.lazy.translate import naming_nodes
    from hiera_det.d2.train.checkpoint import decide_resume
    from hiera_det.d2.train.launch import launch_tool
except ImportError as error:
    sys.exit(f"error: {error}")


def run(request: RunRequest, check_files: bool) -> None:
    """Train, or evaluate only; runs in every process."""
    with naming_nodes():
        setup_logger(distributed_rank=comm.get_rank(), name="hiera_det")
        lazy, cfg = setup_lazy_config(request, check_files=check_files)
        default_setup(lazy, request)
        logging.getLogger("hiera_det").handlers.clear()  # once more, now into the output folder too
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="hiera_det")
        kind = trainer_class(lazy)
        if request.eval_only:
            kind.evaluate_checkpoint(cfg, resume=request.resume)
            return
        resume = decide_resume(cfg.OUTPUT_DIR, resume=request.resume, auto_resume=request.auto_resume)
        trainer = kind(cfg)
        trainer.resume_or_load(resume=resume)
        trainer.train()


def main() -> None:
    """Parse the command line and start as many processes as it asks for."""
    request = run_request(training_parser(__doc__, "train.output_dir").parse_args())
    with naming_nodes():
        launch_tool(run, request, check=lambda: setup_lazy_config(request), device=training_device(request))
