"""GELU and the residual sum into a buffer that is at hand: a fresh one costs more than the operation itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiera_det.modeling.fast.paths import reusable

__all__ = ["add_branch", "gelu"]


def gelu(x: Tensor, maker: nn.Module) -> Tensor:
    """Exact GELU of what ``maker`` gave."""
    return torch.ops.aten.gelu_(x) if reusable(x, [maker]) else F.gelu(x)


def add_branch(x: Tensor, branch: Tensor, *makers: nn.Module) -> Tensor:
    """Residual sum ``x + branch`` of what ``makers`` gave, one after another.

    Never into ``x``: that is the previous block's output, which a forward hook may have kept.
    """
    return branch.add_(x) if reusable(branch, makers) and x.dtype == branch.dtype else x + branch
