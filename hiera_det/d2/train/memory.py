"""Where a detector's training has no memory left: one line with its sizes, and the three keys to change."""

from __future__ import annotations

from contextlib import AbstractContextManager

from detectron2.config import CfgNode

from hiera_det.engine.failures import explained

__all__ = ["memory_told", "told_images"]


def told_images(cfg: CfgNode) -> str:
    """The size of training images, as people say it."""
    if cfg.INPUT.LSJ.ENABLED:
        return f"{cfg.INPUT.LSJ.SIZE}x{cfg.INPUT.LSJ.SIZE} pixels by large-scale jitter"
    sides = ", ".join(map(str, cfg.INPUT.MIN_SIZE_TRAIN))
    return f"shorter side {sides} pixels, longer at most {cfg.INPUT.MAX_SIZE_TRAIN}"


def memory_told(cfg: CfgNode, part: int, resumable: bool = True) -> AbstractContextManager[None]:
    """A context in which failures of the machine become a line; see `hiera_det.engine.failures.explained`.

    Args:
        cfg: of the training.
        part: images of a forward in a process.
        resumable: there are checkpoints to go on from.
    """
    size = "INPUT.LSJ.SIZE" if cfg.INPUT.LSJ.ENABLED else "INPUT.MIN_SIZE_TRAIN"
    kept = "raise MODEL.BACKBONE.FREEZE_AT" if cfg.MODEL.HIERA.USE_CHECKPOINT else "set MODEL.HIERA.USE_CHECKPOINT True"
    keys = f"raise SOLVER.ACCUMULATE, lower {size}, or {kept}"
    doing = f"a step of {part} images per process and forward, {told_images(cfg)}"
    return explained(doing, keys, resumable)
