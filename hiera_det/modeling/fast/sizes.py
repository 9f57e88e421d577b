"""Sizes in graphs that are made for all sizes: nothing is decided by them there, for each case would be a graph.

Eagerly the same results come the shorter way.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hiera_det.errors import InputError
from hiera_det.modeling.fast.paths import is_placeholder, is_symbolic

__all__ = ["as_traced", "as_units", "covers", "crop_to", "divides", "is_size", "pad_to", "regroup", "repeat_to"]


def divides(window: int, rows: int, cols: int) -> bool:
    """Whether windows of that side divide the image; where its size is a symbol, no."""
    return not is_symbolic(rows) and not (rows % window or cols % window)


def covers(window: int, rows: int, cols: int) -> bool:
    """Whether one window holds the image; where its size is a symbol, no."""
    return not is_symbolic(rows) and window >= max(rows, cols)


def is_size(size: tuple[int, int], of: tuple[int, int]) -> bool:
    """Whether two sizes are equal; where one is a symbol, no."""
    return not is_symbolic(*size) and size == of


def as_units(images: Tensor, side: int) -> Tensor:
    """The same images; for a compiler with height and width written as multiples of a mask unit.

    With dynamic sizes it carries them through every shape: as products they cancel, as quotients of quotients (what the
    stem's convolution makes of them) it takes minutes to see that two are equal.
    """
    if not torch.compiler.is_compiling():
        return images
    rows, cols = images.shape[-2] // side, images.shape[-1] // side
    return images.new_empty(*images.shape[:-2], rows * side, cols * side).copy_(images)


def as_traced(images: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Images and mask; a graph of ``torch.fx`` is made for whole images, and refuses a mask when it is called."""
    return (_refuse_mask(images, mask), None) if is_placeholder(mask) else (images, mask)


@torch.fx.wrap
def _refuse_mask(images: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        raise InputError("mask: this graph of torch.fx was traced for whole images; call the trunk itself")
    return images


def pad_to(x: Tensor, rows: int, cols: int) -> Tensor:
    """Zeros at the bottom and right: ``[B, r, c, C]`` to ``[B, rows, cols, C]``."""
    if is_size((x.shape[1], x.shape[2]), (rows, cols)):
        return x  # `F.pad` would copy
    if not torch.compiler.is_compiling() or not is_symbolic(rows, cols):
        return F.pad(x, (0, 0, 0, cols - x.shape[2], 0, rows - x.shape[1]))
    # `F.pad` asks whether there is anything to pad.
    x = torch.cat([x, x.new_zeros(x.shape[0], rows - x.shape[1], x.shape[2], x.shape[3])], dim=1)
    return torch.cat([x, x.new_zeros(x.shape[0], rows, cols - x.shape[2], x.shape[3])], dim=2)


def crop_to(x: Tensor, rows: int, cols: int) -> Tensor:
    """What `pad_to` began with: ``[B, r, c, C]`` to ``[B, rows, cols, C]``."""
    if is_size((x.shape[1], x.shape[2]), (rows, cols)):
        return x
    if torch.compiler.is_compiling():
        return x[:, :rows, :cols]
    return F.pad(x, (0, 0, 0, cols - x.shape[2], 0, rows - x.shape[1]))  # one copy back where two slices make two


def regroup(x: Tensor, *shape: int) -> Tensor:
    """`torch.Tensor.reshape`, which a compiler would ask whether it is a copy."""
    if torch.compiler.is_compiling():
        return x.clone(memory_format=torch.contiguous_format).view(shape)
    return x.reshape(shape)


def repeat_to(x: Tensor, rows: int, cols: int) -> Tensor:
    """``[B, r, c, C]`` again and again, cut off at the bottom and right: ``[B, rows, cols, C]``."""
    if not is_symbolic(rows, cols):
        return x.tile(1, -(-rows // x.shape[1]), -(-cols // x.shape[2]), 1)[:, :rows, :cols]
    down, across = (torch.arange(n, device=x.device) % x.shape[i] for i, n in ((1, rows), (2, cols)))
    return x.index_select(1, down).index_select(2, across)  # a slice asks whether there is anything to cut off
