"""A run of a YAML config, from what is asked for to its end: in as many processes as that needs."""

from __future__ import annotations

import logging
from collections import OrderedDict
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from hiera_det.d2.config.request import RunRequest
from hiera_det.d2.config.setup import setup_config, training_device
from hiera_det.d2.train.checkpoint import check_weights, decide_resume
from hiera_det.d2.train.dry_run import dry_run
from hiera_det.d2.train.launch import launch_tool
from hiera_det.d2.train.trainer import Trainer

__all__ = ["log_to", "start", "train_or_evaluate"]


def start(request: RunRequest, gpu_price: float = 0.0) -> None:
    """Train, evaluate only, or try out.

    Args:
        request: what the command line, or a Python caller, asks for.
        gpu_price: of a GPU-hour, for the forecast of a dry run.

    Raises:
        InputError: something cannot be used; one line.
    """
    run = partial(_run, gpu_price=gpu_price)
    launch_tool(run, request, check=lambda: check_weights(setup_config(request)), device=training_device(request))


def _run(request: RunRequest, check_files: bool, gpu_price: float) -> None:
    """Runs in every process."""
    log_to(None)
    cfg = setup_config(request, check_files=check_files)
    if not request.dry_run:
        train_or_evaluate(Trainer, cfg, cfg, request)
        return
    forecast = dry_run(cfg)
    if comm.is_main_process():
        print(forecast.report(gpu_price))


def log_to(folder: str | None) -> None:
    """Have the package's log printed, and written to ``log.txt`` in a folder."""
    setup_logger(folder, distributed_rank=comm.get_rank(), name="hiera_det")


def train_or_evaluate(
    trainer_class: type[Trainer], config: Any, cfg: CfgNode, request: RunRequest
) -> OrderedDict[str, Any] | None:
    """Run a checked config in this process.

    Args:
        trainer_class: what trains and evaluates.
        config: what is left in the output folder, a ``CfgNode`` or a LazyConfig.
        cfg: its settings, frozen.
        request: what is asked for.
    """
    default_setup(config, request)
    logging.getLogger("hiera_det").handlers.clear()  # once more, now into the output folder too
    log_to(cfg.OUTPUT_DIR)
    if request.eval_only:
        return trainer_class.evaluate_checkpoint(cfg, resume=request.resume)
    resume = decide_resume(cfg.OUTPUT_DIR, resume=request.resume, auto_resume=request.auto_resume)
    trainer = trainer_class(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer.train()
