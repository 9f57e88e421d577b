"""The number format of evaluation and prediction: ``TEST.AUTOCAST``."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode

from hiera_det.engine.precision import autocast as autocast_to
from hiera_det.engine.precision import check_precision

__all__ = ["autocast", "check_autocast"]


def autocast(cfg: CfgNode) -> torch.autocast:
    """A context in which the model computes as ``TEST.AUTOCAST`` says, on ``MODEL.DEVICE``.

    Raises:
        InputError: see `check_autocast`.
    """
    check_autocast(cfg)
    return autocast_to(torch.device(cfg.MODEL.DEVICE).type, _precision(cfg))


def check_autocast(cfg: CfgNode) -> None:
    """Refuse a format that is none, or that the device cannot compute in.

    Raises:
        InputError: see `hiera_det.engine.precision.check_precision`.
    """
    check_precision(_precision(cfg), torch.device(cfg.MODEL.DEVICE).type, "TEST.AUTOCAST")


def _precision(cfg: CfgNode) -> str:
    """A name of `hiera_det.engine.precision`; "" is its float32."""
    return cfg.TEST.AUTOCAST or "float32"
