"""Attention windows of several mask units, as SAM 2's HieraDet has them in stages 3 and 4.

A window is a square of whole mask units. Tokens stay mask-unit-major, and only whole units move: the order inside a
window makes no difference to attention. Letters: B images, N tokens per image, t tokens per unit, C channels.

Where the windows do not divide the image, the missing units at the bottom and right are padded with zeros. SAM 2 lets
them take part in the attention, with the bias as their key and value, and its weights expect that (its ``hieradet``
pads after the first norm, without a mask). Masked, each window attends among the units that it has.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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
    batch, tokens, channels = x.shape
    unit = tokens // (grid.rows * grid.cols) * channels
    down, across = _windows(grid, window)
    x = _pad(x.view(batch, grid.rows, grid.cols, unit), down * window, across * window)
    x = x.view(batch, down, window, across, window, unit).transpose(2, 3)
    return _reshape(x, batch * down * across, window * window * (unit // channels), channels)


def join_windows(x: Tensor, grid: UnitGrid, window: int) -> Tensor:
    """Put the tokens of windows back in order and drop the padding: the inverse of `split_windows`.

    Args:
        x: tokens ``[B * windows, window * window * t, C]``; t and C may have changed since the split.
        grid: rows and columns of mask units in the image.
        window: the window's side in units.

    Returns:
        tokens ``[B, N, C]``.
    """
    down, across = _windows(grid, window)
    batch, channels = x.shape[0] // (down * across), x.shape[-1]
    x = x.reshape(batch, down, across, window, window, -1).transpose(2, 3)
    x = _reshape(x, batch, down * window, across * window, x.shape[-1])[:, : grid.rows, : grid.cols]
    return _reshape(x, batch, grid.rows * grid.cols * (x.shape[-1] // channels), channels)


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
    if not torch.compiler.is_compiling() and not (grid.rows % window or grid.cols % window):
        return None  # compiled, it would be a case, with a graph, of its own
    real = torch.ones(1, grid.rows * grid.cols, 1, device=device)
    units = split_windows(real, grid, window).squeeze(-1) > 0
    return units.repeat_interleave(unit_tokens, dim=1).repeat(batch, 1)[:, None, None]


def _pad(x: Tensor, rows: int, cols: int) -> Tensor:
    """Zeros at the bottom and right: ``[B, r, c, C]`` to ``[B, rows, cols, C]``."""
    if not torch.compiler.is_compiling():
        return F.pad(x, (0, 0, 0, cols - x.shape[2], 0, rows - x.shape[1]))
    # `F.pad` asks whether there is anything to pad, which would make a graph for each answer.
    x = torch.cat([x, x.new_zeros(x.shape[0], rows - x.shape[1], x.shape[2], x.shape[3])], dim=1)
    return torch.cat([x, x.new_zeros(x.shape[0], rows, cols - x.shape[2], x.shape[3])], dim=2)


def _reshape(x: Tensor, *shape: int) -> Tensor:
    """`torch.Tensor.reshape`, which a compiler would ask whether it is a copy, with a graph for each answer."""
    if torch.compiler.is_compiling():
        return x.clone(memory_format=torch.contiguous_format).view(shape)
    return x.reshape(shape)


def _windows(grid: UnitGrid, window: int) -> tuple[int, int]:
    """How many windows there are from top to bottom and from left to right."""
    return -(-grid.rows // window), -(-grid.cols // window)
