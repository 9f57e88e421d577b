"""Token order: image maps to mask-unit-major tokens and back (Ryali et al. 2023, section 3, mask units).

Letters: B images, H and W the map's size in tokens, U mask units per image, C channels.

The order is nested: within a unit the first pooling stride's offsets come first, then the second's, and so on. Each
q-pool is then a max over a leading axis, and local attention a plain reshape, until the last stage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hiera_det.errors import InputError

__all__ = ["average_tokens", "pool_tokens", "reroll", "unroll"]

Stride = tuple[int, int]


def _unit_size(q_strides: Sequence[Stride]) -> Stride:
    """Height and width in tokens of the unit that the given poolings reduce to one token."""
    return math.prod(y for y, _ in q_strides), math.prod(x for _, x in q_strides)


def unroll(x: Tensor, q_strides: Sequence[Stride]) -> Tensor:
    """Reorder an image map so that each mask unit's tokens are contiguous.

    Every later q-pool is then a max over a leading axis, and local attention a plain reshape. One copy.

    Args:
        x: map ``[B, H, W, C]``, any memory layout; H and W must be multiples of the product of the strides.
        q_strides: pooling strides (y, x) in the order in which they are used.

    Returns:
        tokens ``[B * U, unit_tokens, C]``, units in row-major order.

    Raises:
        ValueError: H or W does not divide; the message gives both numbers.
    """
    batch, height, width, channels = x.shape
    unit_h, unit_w = _unit_size(q_strides)
    if height % unit_h or width % unit_w:
        raise InputError(f"map {height}x{width}: height and width must be multiples of the mask unit {unit_h}x{unit_w}")
    # A coordinate splits into (unit, last stride's offset, ..., first stride's offset): neighbours pool first.
    split_h = [height // unit_h, *(y for y, _ in reversed(q_strides))]
    split_w = [width // unit_w, *(x for _, x in reversed(q_strides))]
    x = x.reshape(batch, *split_h, *split_w, channels)
    n = len(q_strides)
    y_axes, x_axes = range(1, n + 2), range(n + 2, 2 * n + 3)
    inner = [axis for i in range(n, 0, -1) for axis in (y_axes[i], x_axes[i])]
    x = x.permute(0, y_axes[0], x_axes[0], *inner, 2 * n + 3)
    return x.reshape(-1, unit_h * unit_w, channels)


def reroll(x: Tensor, size: tuple[int, int], q_strides: Sequence[Stride]) -> Tensor:
    """Put mask-unit-major tokens back into an image map: the inverse of `unroll`.

    Args:
        x: tokens ``[B, N, C]`` or ``[B * U, N / U, C]``, in the order of `unroll` with the poolings still to come.
        size: height and width of the map in tokens.
        q_strides: the pooling strides not used yet, in their order; empty after the last pooling.

    Returns:
        map ``[B, H, W, C]``, contiguous; a view of ``x`` when no strides are left and ``x`` is contiguous.
    """
    height, width = size
    channels = x.shape[-1]
    unit_h, unit_w = _unit_size(q_strides)
    n = len(q_strides)
    inner = [step for stride in q_strides for step in stride]
    x = x.reshape(-1, height // unit_h, width // unit_w, *inner, channels)
    # Axes 3, 5, ... are the y offsets and 4, 6, ... the x offsets, the first (finest) stride's first.
    y_axes = [3 + 2 * i for i in range(n - 1, -1, -1)]
    x_axes = [4 + 2 * i for i in range(n - 1, -1, -1)]
    x = x.permute(0, 1, *y_axes, 2, *x_axes, 3 + 2 * n)
    return x.reshape(-1, height, width, channels)


def pool_tokens(x: Tensor, unit_tokens: int, stride: int) -> Tensor:
    """Max-pool tokens inside their mask units (the paper's q-pool).

    Args:
        x: tokens ``[B, N, C]`` in the order of `unroll`, or ``[B * U, unit_tokens, C]``; last axis contiguous.
        unit_tokens: tokens per mask unit before the pooling.
        stride: the flattened stride, 4 for 2x2.

    Returns:
        tokens ``[B, N / stride, C]``.
    """
    batch, tokens, channels = x.shape
    x = x.reshape(-1, stride, unit_tokens // stride, channels)
    return torch.amax(x, dim=1).view(batch, tokens // stride, channels)


def average_tokens(x: Tensor, unit_tokens: int, stride: int) -> Tensor:
    """Average tokens inside their mask units; arguments and result as of `pool_tokens`."""
    batch, tokens, channels = x.shape
    x = x.reshape(-1, stride, unit_tokens // stride, channels)
    return x.mean(dim=1).view(batch, tokens // stride, channels)
