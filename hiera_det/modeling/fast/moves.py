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
        empty: the places at which none stands.
        windows: how many an image has, D x A.
    """

    sources: Tensor
    places: Tensor
    empty: Tensor
    windows: int


def to_windows(x: Tensor, moves: Moves) -> Tensor:
    """Units ``[B, U, C]`` to places ``[B, D * A * w * w, C]``, zeros where no unit stands."""
    return _ToWindows.apply(x, moves) if x.requires_grad else _fill(x, moves)  # type: ignore[no-any-return, no-untyped-call]


def from_windows(x: Tensor, moves: Moves) -> Tensor:
    """Places to units: the inverse of `to_windows`, and its adjoint."""
    return _FromWindows.apply(x, moves) if x.requires_grad else x.index_select(1, moves.places)  # type: ignore[no-any-return, no-untyped-call]


def _fill(x: Tensor, moves: Moves) -> Tensor:
    places = x.index_select(1, moves.sources)
    return places.index_fill_(1, moves.empty, 0) if len(moves.empty) else places


class _ToWindows(torch.autograd.Function):
    """PyTorch's own gradient of a selection adds rows one by one; this one selects them back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, moves: Moves) -> Tensor:
        ctx.moves = moves
        return _fill(x, moves)

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
