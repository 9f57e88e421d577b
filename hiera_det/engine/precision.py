"""Number formats by name: what a training, an evaluation or a prediction computes in.

Matrix products and convolutions take the narrow format, sums, norms and boxes stay in float32; weights always do.
"""

from __future__ import annotations

import functools
import logging

import torch

from hiera_det.errors import InputError

__all__ = ["PRECISIONS", "autocast", "check_precision", "emulates_bfloat16"]

logger = logging.getLogger("hiera_det.training")

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(device_type: str, precision: str) -> torch.autocast:
    """A context that computes in ``precision``, a key of `PRECISIONS`, on ``cpu`` or ``cuda``."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device_type, dtype=dtype, enabled=dtype is not None)


def check_precision(precision: str, device_type: str, word: str = "precision") -> None:
    """Refuse a format that is none, or that the device cannot compute in; warn of one that it emulates.

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
        narrow = "" if emulates_bfloat16() else "bfloat16 or "
        raise InputError(f"{word} float16 needs a GPU: on the CPU choose {narrow}float32")
    if precision == "bfloat16" and device_type == "cuda" and not torch.cuda.is_bf16_supported():
        raise InputError(f"{word} bfloat16: this GPU does not compute in it; choose float16")
    if precision == "bfloat16" and device_type == "cpu" and emulates_bfloat16():
        _warn_of_emulation(word)


def emulates_bfloat16() -> bool:
    """Whether the processor has no products in bfloat16, so that PyTorch's own loops compute them."""
    return not torch.ops.mkldnn._is_mkldnn_bf16_supported()


@functools.cache  # once in a process
def _warn_of_emulation(word: str) -> None:
    # A training step of the quick start on an AMD Zen 3 (AVX2), docs/performance.md.
    logger.warning(
        "%s bfloat16: this processor only emulates it; a step takes about 6 times as long as in float32", word
    )
