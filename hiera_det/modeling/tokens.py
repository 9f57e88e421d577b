"""Token order: image maps to mask-unit-major tokens and back (Ryali et al. 2023, section 3, mask units).

Letters: B images, H and W the map's size in tokens, U mask units per image, C channels.

The order is nested: within a unit the first pooling stride's offsets come first, then the second's, and so on. Each
q-pool is then a max over a leading axis, and local attention a plain reshape, until the last stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from hiera_det.errors import InputError
from hiera_det.modeling.fast.moves import Moves
from hiera_det.modeling.fast.pooling import largest

__all__ = ["Tokens", "UnitGrid", "average_tokens", "pool_tokens", "reroll", "unroll"]

Stride = tuple[int, int]


def _unit_size(q_strides: Sequence[Stride]) -> Stride:
    """Height and width in tokens of the unit that the given poolings reduce to one token."""
    height = width = 1
    for y, x in q_strides:  # a plain loop: compilers do not follow a generator
        height, width = height * y, width * x
    return height, width


class UnitGrid(NamedTuple):
    """How an image's mask units lie in a row of tokens.

    Attributes:
        rows: units from top to bottom.
        cols: units from left to right.
        group: side of the squares of units that are contiguous; 1 for none. Squares, and units in them, are row-major.
            0 where some units are left out.
        moves: what blocks have found out about windows by their side, for the blocks after them.
    """

    rows: int
    cols: int
    group: int
    moves: dict[int, Moves]


@dataclass
class Tokens:
    """Tokens between two blocks, and what it takes to make a map of them.

    Attributes:
        x: ``[B, N, C]``, in the order of `unroll`.
        grid: how the image's mask units lie.
        strides: how a mask unit's tokens are nested, by the poolings still to come.
        frames: length of a clip in tokens; None for images.
        kept: numbers ``[B, k]`` of the mask units that are there; None where all are.
    """

    x: Tensor
    grid: UnitGrid
    strides: tuple[Stride, ...]
    frames: int | None = None
    kept: Tensor | None = None

    @property
    def unit_tokens(self) -> int:
        """Tokens per mask unit."""
        height, width = _unit_size(self.strides)
        return height * width

    def moved(self, x: Tensor, strides: tuple[Stride, ...]) -> Tokens:
        """Other tokens of the same mask units."""
        return Tokens(x, self.grid, strides, self.frames, self.kept)

    def map(self) -> Tensor:
        """The map ``[B, C, H, W]``, of clips ``[B, C, T, H, W]``; of kept units theirs, ``[B, k, C, unit, unit]``."""
        batch, tokens, channels = self.x.shape
        height, width = _unit_size(self.strides)
        if self.kept is not None:
            units = self.x.reshape(-1, height * width, channels)
            units = reroll(units, (height, width), self.strides)
            return units.view(batch, tokens // (height * width), height, width, channels).movedim(-1, 2)
        size = self.grid.rows * height, self.grid.cols * width
        maps = reroll(self.x, size, self.strides, self.grid.group)
        if self.frames is not None:
            maps = maps.view(batch, self.frames, *size, channels)
        return maps.movedim(maps.ndim - 1, 1)  # the older exporter to ONNX counts no axes from the end


def unroll(x: Tensor, q_strides: Sequence[Stride], group: int = 1) -> Tensor:
    """Reorder an image map so that each mask unit's tokens are contiguous.

    Every later q-pool is then a max over a leading axis, and local attention a plain reshape. One copy.

    Args:
        x: map ``[B, H, W, C]``, any memory layout; H and W must be multiples of the product of the strides.
        q_strides: pooling strides (y, x) in the order in which they are used.
        group: side in units of larger windows whose units are to be contiguous too; must divide the units.

    Returns:
        tokens ``[B * U, unit_tokens, C]``, units in row-major order, or in groups as `UnitGrid` says; a view of ``x``
        where nothing had to move.

    Raises:
        ValueError: H or W does not divide; the message gives both numbers.
    """
    batch, height, width, channels = x.shape
    unit_h, unit_w = _unit_size(q_strides)
    if height % (unit_h * group) or width % (unit_w * group):
        unit = f"{unit_h * group}x{unit_w * group}"
        raise InputError(f"map {height}x{width}: height and width must be multiples of the mask unit {unit}")
    # A coordinate splits into (group, unit, last stride's offset, ..., first stride's offset): neighbours pool first.
    split_h = [height // (unit_h * group), group, *(y for y, _ in reversed(q_strides))]
    split_w = [width // (unit_w * group), group, *(x for _, x in reversed(q_strides))]
    x = x.reshape(batch, *split_h, *split_w, channels)
    n = len(split_h)
    inner = [axis for i in range(n, 2, -1) for axis in (i, i + n)]
    x = x.permute(0, 1, 1 + n, 2, 2 + n, *inner, 2 * n + 1)
    return x.reshape(-1, unit_h * unit_w, channels)


def reroll(x: Tensor, size: tuple[int, int], q_strides: Sequence[Stride], group: int = 1) -> Tensor:
    """Put mask-unit-major tokens back into an image map: the inverse of `unroll`.

    Args:
        x: tokens ``[B, N, C]`` or ``[B * U, N / U, C]``, in the order of `unroll` with the poolings still to come.
        size: height and width of the map in tokens.
        q_strides: the pooling strides not used yet, in their order; empty after the last pooling.
        group: as in `unroll`.

    Returns:
        map ``[B, H, W, C]``, contiguous; a view of ``x`` when no strides or groups are left and ``x`` is contiguous.
    """
    height, width = size
    channels = x.shape[-1]
    unit_h, unit_w = _unit_size(q_strides)
    inner = [step for stride in ((group, group), *q_strides) for step in stride]
    x = x.reshape(-1, height // (unit_h * group), width // (unit_w * group), *inner, channels)
    # Axes 3 and 4 are the place in the group; then come the y and x offsets of the first (finest) stride, and so on.
    finest_last = range(3 + 2 * len(q_strides), 4, -2)
    x = x.permute(0, 1, 3, *finest_last, 2, 4, *(axis + 1 for axis in finest_last), x.ndim - 1)
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
    return largest(x).view(batch, tokens // stride, channels)


def average_tokens(x: Tensor, unit_tokens: int, stride: int) -> Tensor:
    """Average tokens inside their mask units; arguments and result as of `pool_tokens`."""
    batch, tokens, channels = x.shape
    x = x.reshape(-1, stride, unit_tokens // stride, channels)
    return x.mean(dim=1).view(batch, tokens // stride, channels)
