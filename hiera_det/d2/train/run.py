"""A run of a detector, from what is asked for to its end, in as many processes as that needs."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, LazyConfig
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng

from hiera_det.d2.config.request import PATHS, RunRequest
from hiera_det.d2.config.setup import setup_config, training_device
from hiera_det.d2.train.checkpoint import check_weights, decide_resume
from hiera_det.d2.train.dry_run import dry_run
from hiera_det.d2.train.hooks import split_callbacks
from hiera_det.d2.train.largest import with_largest_part
from hiera_det.d2.train.launch import launch_tool
from hiera_det.d2.train.overview import length_of, told_overview
from hiera_det.d2.train.trainer import Trainer
from hiera_det.engine.checkpoint import Checkpoints, FolderLock
from hiera_det.engine.log import Kept, LogFile, PlainFormatter
from hiera_det.engine.record import write_record
from hiera_det.engine.session import process_kept
from hiera_det.engine.stop import Stop, stoppable
from hiera_det.engine.talk import Talk, Terminal, say, told_metrics
from hiera_det.files import write_atomically

__all__ = ["LOGGERS", "begin_logging", "run_detector", "start", "train_by_yaml"]

logger = logging.getLogger("hiera_det.setup")


#: Of detectron2, fvcore, this project, and of Python's warnings.
LOGGERS = ("fvcore", "detectron2", "hiera_det", "py.warnings")


def begin_logging(folder: str = "") -> None:
    """Send the log of detectron2, fvcore and this project to ``log.txt``; `Terminal` shows what people need.

    Args:
        folder: of the run; "" where it is not known yet: what is said until then comes into the file later.
    """
    file: logging.Handler = LogFile(folder) if folder else Kept()
    file.setFormatter(PlainFormatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%m/%d %H:%M:%S"))
    shown: list[logging.Handler] = [Terminal(sys.stdout)] if comm.is_main_process() else []
    for name in LOGGERS:
        logger = logging.getLogger(name)
        for kept in (handler for handler in logger.handlers if isinstance(handler, Kept)):
            kept.setTarget(file)
            kept.flush()
        logger.handlers[:] = [*shown, file]
        logger.setLevel(logging.DEBUG)
        logger.propagate = False


def start(request: RunRequest, gpu_price: float = 0.0, callbacks: Sequence[object] = ()) -> Any:
    """Train, evaluate only, or try out what a YAML config describes.

    Args:
        request: what the command line, or a Python caller, asks for.
        gpu_price: of a GPU-hour, for the forecast of a dry run.
        callbacks: see `Trainer`.

    Returns:
        results of an evaluation that was asked for alone.

    Raises:
        InputError: something cannot be used; one line.
        StopRequested: a signal stopped it, after a checkpoint.
    """
    split_callbacks(callbacks)
    run = partial(train_by_yaml, gpu_price=gpu_price, callbacks=callbacks)
    return launch_tool(
        run, request, check=lambda: check_weights(setup_config(request)), device=training_device(request)
    )


def train_by_yaml(
    request: RunRequest, check_files: bool, gpu_price: float = 0.0, callbacks: Sequence[object] = ()
) -> Any:
    """Train, evaluate only, or try out what a YAML config describes; called in every process.

    Args:
        request: what was asked for.
        check_files: look at each image file of own data.
        gpu_price: of a GPU-hour, for the forecast of a dry run.
        callbacks: see `Trainer`.
    """
    with process_kept(*LOGGERS), stoppable() as stop:
        begin_logging()
        cfg = setup_config(request, check_files=check_files)
        if not request.dry_run:
            return run_detector(cfg, request, stop, given=request.opts[0::2], callbacks=callbacks)
        forecast = dry_run(with_largest_part(cfg))
        if comm.is_main_process():
            print(forecast.report(gpu_price))
        return None


def run_detector(
    cfg: CfgNode,
    request: RunRequest,
    stop: Stop,
    kind: type[Trainer] = Trainer,
    written: Any = None,
    given: Sequence[str] = (),
    callbacks: Sequence[object] = (),
) -> Any:
    """Train, or evaluate only; called in every process.

    Args:
        cfg: of `hiera_det.d2.config.setup.setup_config`.
        request: what was asked for.
        stop: entered by the caller.
        kind: of trainer.
        written: the config as it goes into ``config.yaml``, where that is another one than ``cfg``.
        given: keys of the command line.
        callbacks: see `Trainer`.

    Returns:
        results of the evaluation, if there was one.

    Raises:
        InputError: the output folder holds a training that nobody asked to go on; see also `Trainer.train`.
        StopRequested: a signal stopped it, after a checkpoint.
    """
    if request.eval_only:
        _begin(cfg, request)
        results = kind.evaluate_checkpoint(cfg, resume=request.resume)
        if comm.is_main_process():
            say.info(told_metrics(flatten_results_dict(results)))
        return results
    resume = decide_resume(cfg.OUTPUT_DIR, resume=request.resume, auto_resume=request.auto_resume)
    # Before anything is written: a run that is refused leaves the other's folder alone.
    with FolderLock(cfg.OUTPUT_DIR, "OUTPUT_DIR") if comm.is_main_process() else nullcontext():
        _begin(cfg, request)
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
        if comm.is_main_process():
            Checkpoints(cfg.OUTPUT_DIR).sweep()
        cfg = with_largest_part(cfg, resume)
        trainer = kind(cfg, stop, callbacks)
        trainer.resume_or_load(resume, request.allow_changed, given)
        following = "hiera-det predict --run {folder} --input FOLDER --output predicted"
        talk = Talk(length_of(trainer.cfg), trainer.best, cfg.OUTPUT_DIR, sys.stdout, following)
        trainer.callbacks.add(talk)
        _write_config(cfg, cfg if written is None else written)
        if comm.is_main_process():
            asked = asdict(request) | {"num_gpus": comm.get_world_size() // request.num_machines}  # torchrun's too
            write_record(cfg.OUTPUT_DIR, "detect", asked, PATHS)
            say.info(told_overview(trainer.cfg, trainer))
        try:
            return trainer.train()
        finally:
            talk.close()


def _begin(cfg: CfgNode, request: RunRequest) -> None:
    """What detectron2 does and says at the beginning of a run."""
    begin_logging(cfg.OUTPUT_DIR)
    logger.info("Rank of current process: %d. World size: %d", comm.get_rank(), comm.get_world_size())
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # that there is no CUDA to compile for
    logger.info("Environment info:\n%s", collect_env_info())
    logger.info("Command line arguments: %s", request)
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())


def _write_config(cfg: CfgNode, written: Any) -> None:
    """The config of a training into its folder; an evaluation there leaves it alone, for predictions go by it."""
    path = Path(cfg.OUTPUT_DIR) / "config.yaml"
    if not comm.is_main_process():
        return
    if isinstance(written, CfgNode):
        logger.info("Running with full config:\n%s", written.dump())
        write_atomically(path, lambda file: file.write(written.dump().encode()))
    else:
        write_atomically(path, lambda file: LazyConfig.save(written, file.name))
    logger.info("Full config saved to %s", os.fspath(path))
