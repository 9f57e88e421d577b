"""Computing something anew in the backward pass in place of keeping it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hiera_det.modeling.fast.paths import records_gradients

__all__ = ["recomputed"]


def recomputed(function: Callable[..., Tensor], wanted: bool, x: Tensor, *others: Any) -> Tensor:
    """``function(x, *others)``, whose inner results are not kept for a backward pass where that is wanted."""
    if wanted and records_gradients(x):
        return checkpoint(function, x, *others, use_reentrant=False)  # type: ignore[no-any-return]
    return function(x, *others)
