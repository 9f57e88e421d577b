"""Whole mask units moved into windows and back by their numbers, in one pass each way, forward and backward."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hiera_det.modeling.fast.paths import is_eager, is_exported, is_symbolic

__all__ = ["Moves", "from_windows", "is_eager", "is_exported", "is_symbolic", "to_windows"]


class Moves(NamedTuple):
    """Where units go.

    Attributes:
        sources: ``[D * A * w * w]``, the unit that stands at each place of D x A windows of w x w; any where none does.
        places: ``[U]``, the place at which each unit stands.
        shape: D, A, w and w.
        rim: rows of units in the lowest windows and columns in those farthest right; w where they are full.
    """

    sources: Tensor
    places: Tensor
    shape: tuple[int, int, int, int]
    rim: tuple[int, int]

    @property
    def windows(self) -> int:
        """How many windows an image has."""
        return self.shape[0] * self.shape[1]


def to_windows(x: Tensor, moves: Moves) -> Tensor:
    """Units ``[B, U, C]`` to places ``[B, D * A * w * w, C]``, zeros where no unit stands."""
    return _ToWindows.apply(x, moves)  # type: ignore[no-any-return, no-untyped-call]


def from_windows(x: Tensor, moves: Moves) -> Tensor:
    """Places to units: the inverse of `to_windows`, and its adjoint."""
    return _FromWindows.apply(x, moves)  # type: ignore[no-any-return, no-untyped-call]


class _ToWindows(torch.autograd.Function):
    """PyTorch's own gradient of a selection adds rows one by one; this one selects them back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, moves: Moves) -> Tensor:
        ctx.moves = moves
        out = x.index_select(1, moves.sources)
        windows = out.view(x.shape[0], *moves.shape, x.shape[2])
        rows, cols = moves.rim
        for beyond in (windows[:, -1, :, rows:], windows[:, :, -1, :, cols:]):
            if beyond.numel():
                beyond.zero_()
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return from_windows(grad, ctx.moves), None


class _FromWindows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, moves: Moves) -> Tensor:
        ctx.moves = moves
        return x.index_select(1, moves.places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return to_windows(grad, ctx.moves), None
