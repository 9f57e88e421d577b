"""The number format of evaluation and prediction: ``TEST.AUTOCAST``."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode

from hiera_det.errors import InputError

__all__ = ["autocast", "check_autocast"]

DTYPES = {"": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(cfg: CfgNode) -> torch.autocast:
    """A context in which the model computes as ``TEST.AUTOCAST`` says, on ``MODEL.DEVICE``.

    Matrix products and convolutions take the narrow format, sums and boxes stay in float32.

    Raises:
        InputError: see `check_autocast`.
    """
    check_autocast(cfg)
    dtype = DTYPES[cfg.TEST.AUTOCAST]
    return torch.autocast(_device_type(cfg), dtype=dtype, enabled=dtype is not None)


def check_autocast(cfg: CfgNode) -> None:
    """Refuse a format that is none, or that the device cannot compute in.

    Raises:
        InputError: ``TEST.AUTOCAST`` is unknown, or is float16 on a CPU.
    """
    name = cfg.TEST.AUTOCAST
    if name not in DTYPES:
        raise InputError(f'TEST.AUTOCAST {name!r}: choose bfloat16, float16 or "" for float32')
    if name == "float16" and _device_type(cfg) == "cpu":
        raise InputError("TEST.AUTOCAST float16 needs a GPU: on the CPU choose bfloat16")


def _device_type(cfg: CfgNode) -> str:
    """``MODEL.DEVICE`` less its number."""
    return torch.device(cfg.MODEL.DEVICE).type
