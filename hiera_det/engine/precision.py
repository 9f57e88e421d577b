"""Number formats by name: what a training, an evaluation or a prediction computes in.

Matrix products and convolutions take the narrow format, sums, norms and boxes stay in float32; weights always do.
"""

from __future__ import annotations

import torch

from hiera_det.errors import InputError

__all__ = ["PRECISIONS", "autocast", "check_precision"]

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(device_type: str, precision: str) -> torch.autocast:
    """A context that computes in ``precision``, a key of `PRECISIONS`, on ``cpu`` or ``cuda``."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device_type, dtype=dtype, enabled=dtype is not None)


def check_precision(precision: str, device_type: str, word: str = "precision") -> None:
    """Refuse a format that is none, or that the device cannot compute in.

    Args:
        precision: see `PRECISIONS`.
        device_type: ``cpu`` or ``cuda``.
        word: the flag or key that named it, for the message.

    Raises:
        InputError: the word and what to choose.
    """
    if precision not in PRECISIONS:
        raise InputError(f"{word} {precision!r}: choose {', '.join(PRECISIONS)}")
    if precision == "float16" and device_type == "cpu":
        raise InputError(f"{word} float16 needs a GPU: on the CPU choose bfloat16 or float32")
    if precision == "bfloat16" and device_type == "cuda" and not torch.cuda.is_bf16_supported():
        raise InputError(f"{word} bfloat16: this GPU does not compute in it; choose float16")
