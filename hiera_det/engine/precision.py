"""Number formats by name: what a training, an evaluation or a prediction computes in.

Matrix products and convolutions take the narrow format, sums, norms and boxes stay in float32; weights always do.
"""

from __future__ import annotations

import functools
import logging

import torch

from hiera_det.errors import InputError
from hiera_det.modeling.fast.paths import processor

__all__ = ["PRECISIONS", "autocast", "bfloat16_factor", "check_precision"]

logger = logging.getLogger("hiera_det.training")

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(device_type: str, precision: str) -> torch.autocast:
    """A context that computes in ``precision``, a key of `PRECISIONS`, on ``cpu`` or ``cuda``."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device_type, dtype=dtype, enabled=dtype is not None)


def check_precision(precision: str, device_type: str, word: str = "precision") -> None:
    """Refuse a format that is none, or that the device cannot compute in; warn of one that takes it longer.

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
        narrow = "" if bfloat16_factor() > 1 else "bfloat16 or "
        raise InputError(f"{word} float16 needs a GPU: on the CPU choose {narrow}float32")
    if precision == "bfloat16" and device_type == "cuda" and not torch.cuda.is_bf16_supported():
        raise InputError(f"{word} bfloat16: this GPU does not compute in it; choose float16")
    if precision == "bfloat16" and device_type == "cpu" and bfloat16_factor() > 1:
        _warn_of_slowness(word)


def bfloat16_factor() -> float:
    """How many times as long as in float32 a step takes on this processor, where more was measured; else 1.

    Sources: docs/performance.md.
    """
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return 6  # no products in bfloat16, so that PyTorch's own loops compute them: a training step on an AMD Zen 3
    has_matrix_units = getattr(torch.cpu, "_is_amx_tile_supported", lambda: True)  # PyTorch 2.5 cannot say
    if processor().vendor == "GenuineIntel" and not has_matrix_units():
        return 1.5  # vectors only, as in virtual machines that hide the matrix units: trunks on a Xeon of family 6
    return 1


@functools.cache  # once in a process
def _warn_of_slowness(word: str) -> None:
    logger.warning(
        "%s bfloat16: a step takes about %g times as long on this processor as in float32", word, bfloat16_factor()
    )
