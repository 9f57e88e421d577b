"""Attention windows of several mask units, as SAM 2's HieraDet has them in stages 3 and 4.

A window is a square of whole mask units. Tokens stay mask-unit-major, and only whole units move: the order inside a
window makes no difference to attention. Letters: B images, N tokens per image, t tokens per unit, C channels.

Where the windows do not divide the image, the missing units at the bottom and right are padded with zeros. SAM 2 lets
them take part in the attention, with the bias as their key and value, and its weights expect that (its ``hieradet``
pads after the first norm, without a mask). Masked, each window attends among the units that it has.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hiera_det.modeling.fast.moves import Moves, from_windows, is_eager, is_exported, is_symbolic, to_windows
from hiera_det.modeling.fast.sizes import crop_to, divides, pad_to, regroup
from hiera_det.modeling.tokens import UnitGrid

__all__ = ["join_windows", "padding_mask", "split_windows"]


def split_windows(x: Tensor, grid: UnitGrid, window: int) -> Tensor:
    """Gather the tokens of each window.

    Args:
        x: tokens ``[B, N, C]``, units in row-major order.
        grid: rows and columns of mask units in the image.
        window: the window's side in units.

    Returns:
        tokens ``[B * windows, window * window * t, C]``, zeros where the image has no unit.
    """
    if is_eager(x):
        batch, tokens, channels = x.shape
        units = grid.rows * grid.cols
        unit = tokens // units
        windows = to_windows(x.reshape(batch, units, unit * channels), moves := _moves(grid, window, x.device))
        return windows.view(batch * moves.windows, window**2 * unit, channels)
    return _select_windows(x, grid, window) if _holds_for_all(grid) else _split(x, grid, window)


def join_windows(x: Tensor, grid: UnitGrid, window: int) -> Tensor:
    """Put the tokens of windows back in order and drop the padding: the inverse of `split_windows`.

    Args:
        x: tokens ``[B * windows, window * window * t, C]``; t and C may have changed since the split.
        grid: rows and columns of mask units in the image.
        window: the window's side in units.

    Returns:
        tokens ``[B, N, C]``.
    """
    if is_eager(x):
        moves, channels = _moves(grid, window, x.device), x.shape[2]
        batch, unit = x.shape[0] // moves.windows, x.shape[1] // window**2
        units = from_windows(x.reshape(batch, moves.windows * window**2, unit * channels), moves)
        return units.view(batch, grid.rows * grid.cols * unit, channels)
    return _select_units(x, grid, window) if _holds_for_all(grid) else _join(x, grid, window)


def padding_mask(grid: UnitGrid, window: int, unit_tokens: int, batch: int, device: torch.device) -> Tensor | None:
    """Which keys of each window are the image's own, for the fused attention's mask.

    Args:
        grid: rows and columns of mask units in the image.
        window: the window's side in units.
        unit_tokens: tokens per unit.
        batch: images.
        device: where the mask is wanted.

    Returns:
        ``[B * windows, 1, 1, window * window * t]``, true for real tokens; None where nothing is padded.
    """
    if divides(window, grid.rows, grid.cols):
        return None
    if _holds_for_all(grid):
        _, rows, cols = _places(grid, window, batch, device)
        units = _inside(grid, rows, cols)[:, None].expand(-1, unit_tokens)
        return units.reshape(-1, 1, 1, window**2 * unit_tokens)
    real = torch.ones(1, grid.rows * grid.cols, 1, device=device)
    units = split_windows(real, grid, window).squeeze(-1) > 0
    return units.repeat_interleave(unit_tokens, dim=1).repeat(batch, 1)[:, None, None]


def _holds_for_all(grid: UnitGrid) -> bool:
    """Whether a graph is exported that holds for every size."""
    return is_exported() and is_symbolic(grid.rows, grid.cols)


def _moves(grid: UnitGrid, window: int, device: torch.device) -> Moves:
    """Where units go; found once for all blocks."""
    if window not in grid.moves:
        down, across = _windows(grid, window)
        units = torch.arange(1, grid.rows * grid.cols + 1, device=device)
        sources = _split(units.view(1, -1, 1), grid, window).flatten() - 1
        # In ascending order come the places at which no unit stands, then those of the units one after another.
        empty, order = len(sources) - len(units), sources.argsort()
        grid.moves[window] = Moves(sources.clamp(min=0), order[empty:], order[:empty], down * across)
    return grid.moves[window]


def _split(x: Tensor, grid: UnitGrid, window: int) -> Tensor:
    """`split_windows` by padding and reordering."""
    batch, tokens, channels = x.shape
    unit = tokens // (grid.rows * grid.cols) * channels
    down, across = _windows(grid, window)
    x = pad_to(x.view(batch, grid.rows, grid.cols, unit), down * window, across * window)
    x = x.view(batch, down, window, across, window, unit).transpose(2, 3)
    return regroup(x, batch * down * across, window * window * (unit // channels), channels)


def _join(x: Tensor, grid: UnitGrid, window: int) -> Tensor:
    """`join_windows` likewise."""
    down, across = _windows(grid, window)
    batch, channels = x.shape[0] // (down * across), x.shape[-1]
    unit = x.shape[1] // window**2
    x = x.reshape(batch, down, across, window, window, unit * channels).transpose(2, 3)
    x = crop_to(regroup(x, batch, down * window, across * window, unit * channels), grid.rows, grid.cols)
    return regroup(x, batch, grid.rows * grid.cols * unit, channels)


def _select_windows(x: Tensor, grid: UnitGrid, window: int) -> Tensor:
    """`split_windows` by numbers that the graph itself counts: it asks nothing of sizes, and so holds for all."""
    batch, tokens, channels = x.shape
    units, windows = grid.rows * grid.cols, math.prod(_windows(grid, window))
    unit, area = tokens // units, window**2
    x = x.reshape(batch * units, unit * channels)
    images, rows, cols = _places(grid, window, batch, x.device)
    numbers = (images * grid.rows + rows) * grid.cols + cols
    if not divides(window, grid.rows, grid.cols):
        x = F.pad(x, (0, 0, 0, 1))  # zeros for where the image has no unit
        numbers = torch.where(_inside(grid, rows, cols), numbers, batch * units)
    return x.index_select(0, numbers).view(batch * windows, area * unit, channels)


def _select_units(x: Tensor, grid: UnitGrid, window: int) -> Tensor:
    """`join_windows` likewise."""
    units, (down, across) = grid.rows * grid.cols, _windows(grid, window)
    batch, area = x.shape[0] // (down * across), window**2
    unit, channels = x.shape[1] // area, x.shape[2]
    numbers = torch.arange(batch * units, device=x.device)
    images, rest = _split_number(numbers, units)
    rows, cols = _split_number(rest, grid.cols)
    places = ((images * down + rows // window) * across + cols // window) * area
    places = places + rows % window * window + cols % window
    x = x.reshape(batch * down * across * area, unit * channels).index_select(0, places)
    return x.view(batch, units * unit, channels)


def _places(grid: UnitGrid, window: int, batch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Image, row and column of each place in all windows."""
    (down, across), area = _windows(grid, window), window**2
    places = torch.arange(batch * down * across * area, device=device)
    images, rest = _split_number(places, down * across * area)
    strips, rest = _split_number(rest, across * area)
    return images, strips * window + rest % area // window, rest // area * window + rest % window


def _split_number(numbers: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """Quotient and remainder; written out, for exporters to ONNX take no symbol behind ``%``."""
    quotients = numbers // by
    return quotients, numbers - quotients * by


def _inside(grid: UnitGrid, rows: Tensor, cols: Tensor) -> Tensor:
    """Whether the image has a unit there."""
    return (rows < grid.rows) & (cols < grid.cols)


def _windows(grid: UnitGrid, window: int) -> tuple[int, int]:
    """How many windows there are from top to bottom and from left to right."""
    return (grid.rows + window - 1) // window, (grid.cols + window - 1) // window  # ONNX divides towards zero
