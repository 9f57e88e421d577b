"""The q-pool's maximum with a backward pass that moves less: the gradient is shared out before it is spread."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hiera_det.modeling.fast.paths import records_eagerly

__all__ = ["largest"]


def largest(x: Tensor) -> Tensor:
    """The maximum over axis 1: ``[G, stride, n, C]`` to ``[G, n, C]``; equal maxima share a gradient."""
    return _Largest.apply(x) if records_eagerly(x) else x.amax(1)  # type: ignore[no-any-return, no-untyped-call]


class _Largest(torch.autograd.Function):
    """`torch.amax`, to the bit; PyTorch's own backward divides after spreading, which moves all of ``x`` twice more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """See `largest`."""
        out = x.amax(1)
        # A part of a larger buffer, as queries are, is kept by attention anyway; of the rest marks of a byte are kept.
        part = x.untyped_storage().nbytes() > x.numel() * x.element_size()
        ctx.save_for_backward(*((x, out) if part else (x == out[:, None],)))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        """Differentiable in ``grad``, so that a second backward pass is right."""
        x, *rest = ctx.saved_tensors
        hit = x == rest[0][:, None] if rest else x
        share = grad / hit.sum(1, dtype=torch.uint8)
        return hit * share[:, None]
