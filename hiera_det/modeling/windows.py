"""Attention windows of several mask units, as SAM 2's HieraDet has them in stages 3 and 4.

A window is a square of whole mask units. Tokens stay mask-unit-major, and only whole units move: the order inside a
window makes no difference to attention. Letters: B images, N tokens per image, t tokens per unit, C channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["join_windows", "split_windows"]


def split_windows(x: Tensor, units: tuple[int, int], window: int) -> Tensor:
    """Gather the tokens of each window.

    Where the windows do not divide the image, zeros stand in for the missing units at the bottom and right, and they
    take part in the attention: SAM 2's weights were trained so (its ``hieradet`` pads after the first norm, no mask).

    Args:
        x: tokens ``[B, N, C]``, units in row-major order.
        units: rows and columns of mask units in the image.
        window: the window's side in units.

    Returns:
        tokens ``[B * windows, window * window * t, C]``.
    """
    rows, cols = units
    batch, tokens, channels = x.shape
    unit = tokens // (rows * cols) * channels
    x = F.pad(x.view(batch, rows, cols, unit), (0, 0, 0, -cols % window, 0, -rows % window))
    down, across = -(-rows // window), -(-cols // window)
    x = x.view(batch, down, window, across, window, unit).transpose(2, 3)
    return x.reshape(batch * down * across, -1, channels)


def join_windows(x: Tensor, units: tuple[int, int], window: int) -> Tensor:
    """Put the tokens of windows back in order and drop the padding: the inverse of `split_windows`.

    Args:
        x: tokens ``[B * windows, window * window * t, C]``; t and C may have changed since the split.
        units: rows and columns of mask units in the image.
        window: the window's side in units.

    Returns:
        tokens ``[B, N, C]``.
    """
    rows, cols = units
    down, across = -(-rows // window), -(-cols // window)
    batch, channels = x.shape[0] // (down * across), x.shape[-1]
    x = x.reshape(batch, down, across, window, window, -1).transpose(2, 3)
    x = x.reshape(batch, down * window, across * window, -1)[:, :rows, :cols]
    return x.reshape(batch, -1, channels)
