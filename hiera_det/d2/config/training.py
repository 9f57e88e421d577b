"""A config's part of the engine's settings, under the keys by which the user knows them."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode

from hiera_det.engine.precision import bfloat16_factor
from hiera_det.engine.settings import TrainSettings
from hiera_det.errors import InputError

__all__ = ["WORDS", "norm_of_all", "train_settings"]

#: Fields of `TrainSettings` and the keys that fill them.
WORDS = {
    "output": "OUTPUT_DIR",
    "iterations": "SOLVER.MAX_ITER",
    "batch_size": "SOLVER.IMS_PER_BATCH",
    "accumulate": "SOLVER.ACCUMULATE",
    "device": "MODEL.DEVICE",
    "seed": "SEED",
    "precision": "SOLVER.AMP.PRECISION",
    "parallel": "SOLVER.PARALLEL",
    "compile": "MODEL.HIERA.COMPILE",
    "clip_norm": "SOLVER.CLIP_GRADIENTS.CLIP_VALUE",
    "ema_decay": "SOLVER.EMA_DECAY",
    "workers": "DATALOADER.NUM_WORKERS",
    "checkpoint_period": "SOLVER.CHECKPOINT_PERIOD",
    "eval_period": "TEST.EVAL_PERIOD",
    "keep": "SOLVER.KEEP_CHECKPOINTS",
    "best": "TEST.BEST",
    "patience": "TEST.PATIENCE",
    "checkpoint_minutes": "SOLVER.CHECKPOINT_MINUTES",
    "skip_nonfinite": "SOLVER.SKIP_NONFINITE",
    "loggers": "LOGGERS",
}


def norm_of_all(cfg: CfgNode) -> float:
    """The largest norm of all gradients together, to which the engine clips them; 0 where it does not."""
    clip = cfg.SOLVER.CLIP_GRADIENTS
    is_ours = clip.ENABLED and clip.CLIP_TYPE == "full_model" and clip.NORM_TYPE == 2
    return float(clip.CLIP_VALUE) if is_ours else 0.0


def train_settings(cfg: CfgNode, processes: int = 1) -> TrainSettings:
    """What the engine is to do, checked.

    Args:
        cfg: its schedule in iterations (`hiera_det.d2.config.schedule.resolve_schedule`), or not yet.
        processes: of all machines.

    Raises:
        InputError: a value that cannot be used, by its key.
    """
    solver = cfg.SOLVER
    if solver.AMP.ENABLED and solver.AMP.PRECISION == "float16" and cfg.MODEL.DEVICE == "cpu":
        narrow = "" if bfloat16_factor() > 1 else "bfloat16, or "
        raise InputError(
            "SOLVER.AMP.ENABLED True with SOLVER.AMP.PRECISION float16 needs a GPU: on the CPU choose "
            f"{narrow}SOLVER.AMP.ENABLED False"
        )
    if solver.AUTO_BATCH and solver.PARALLEL == "fsdp":
        raise InputError("SOLVER.AUTO_BATCH True: tries one process at a time; set SOLVER.PARALLEL ddp, or it to False")
    return TrainSettings(
        output=cfg.OUTPUT_DIR,
        iterations=solver.MAX_ITER,
        batch_size=solver.IMS_PER_BATCH,
        processes=processes,
        accumulate=solver.ACCUMULATE,
        device=torch.device(cfg.MODEL.DEVICE).type,
        seed=cfg.SEED,
        precision=solver.AMP.PRECISION if solver.AMP.ENABLED else "float32",
        parallel=solver.PARALLEL,
        compile=cfg.MODEL.HIERA.COMPILE,
        clip_norm=norm_of_all(cfg),
        ema_decay=solver.EMA_DECAY,
        workers=cfg.DATALOADER.NUM_WORKERS,
        checkpoint_period=solver.CHECKPOINT_PERIOD,
        eval_period=cfg.TEST.EVAL_PERIOD,
        keep=solver.KEEP_CHECKPOINTS,
        best=cfg.TEST.BEST,
        patience=cfg.TEST.PATIENCE,
        checkpoint_minutes=solver.CHECKPOINT_MINUTES,
        skip_nonfinite=solver.SKIP_NONFINITE,
        loggers=tuple(cfg.LOGGERS),
        words=WORDS,
    )
