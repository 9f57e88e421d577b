"""Leaving mask units out (Ryali et al. 2023, section 3 and Figure 3): masks, and the pixels of the units that stay.

A mask says which mask units are kept. The others are gone before the first block, and the stem is computed for the kept
ones alone: a unit's tokens see its own pixels and a border of 3 above and to the left (for clips also the frame
before), which is zero where it belongs to a unit that is left out. The authors get the same from the whole image with
the left-out pixels set to zero. Letters: B images, U mask units per image, k kept ones, t tokens per unit, C channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiera_det.errors import InputError
from hiera_det.modeling.options import FRAME_STRIDE, PATCH_STRIDE

__all__ = ["check_mask", "check_stem", "gather_units", "kept_units", "mask_from_noise", "unit_windows"]

#: Pixels above and to the left of a mask unit, and frames before it, that are cut out with it. Its tokens see 3 of the
#: pixels and 1 of the frames, the stem's padding; one stride more and the stem can be called as it is.
BORDER, FRAME_BORDER = PATCH_STRIDE, FRAME_STRIDE


def mask_from_noise(noise: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor]:
    """Keep the units of the smallest noise, equally many in each image.

    Args:
        noise: ``[B, U]``, one number per unit, for example uniform ones.
        mask_ratio: part of the units that is left out, above 0 and below 1.

    Returns:
        the mask ``[B, U]``, true for the k = ``int(U * (1 - mask_ratio))`` units of each image that are kept, and their
        numbers ``[B, k]``, ascending. Nothing waits for a GPU.

    Raises:
        InputError: the ratio is no such part, or leaves no unit in or none out.
    """
    if not 0.0 < mask_ratio < 1.0:
        raise InputError(f"mask_ratio {mask_ratio}: must be above 0 and below 1, such as 0.6 for images, 0.9 for clips")
    units = noise.shape[1]
    keep = int(units * (1 - mask_ratio))
    if not 0 < keep < units:
        raise InputError(f"mask_ratio {mask_ratio} keeps {keep} of {units} mask units: keep at least 1, leave out 1")
    kept = noise.argsort(dim=1)[:, :keep].sort(dim=1).values
    mask = torch.zeros(noise.shape, dtype=torch.bool, device=noise.device)
    return mask.scatter(1, kept, True), kept


def check_stem(stem: nn.Module) -> None:
    """Refuse a stem that somebody has put in place and that sees more around a mask unit than is cut out with it.

    Raises:
        InputError: a convolution's kernel and padding.
    """
    for conv in stem.modules():
        if isinstance(conv, (nn.Conv2d, nn.Conv3d)):  # PyTorch 2.6 compiles no union of types
            for kernel, step, padding in list(zip(conv.kernel_size, conv.dilation, conv.padding, strict=False))[-2:]:
                if type(padding) is not int or padding > BORDER or (kernel - 1) * step - padding >= PATCH_STRIDE:
                    raise InputError(
                        f"mask: the stem has a convolution of kernel {kernel}, dilation {step} and padding {padding}; "
                        "with masks kernel 7 and padding 3 see as far as can be"
                    )


def check_mask(mask: Tensor, batch: int, grid: tuple[int, ...]) -> None:
    """Refuse a mask that does not fit the images.

    Args:
        mask: what was given.
        batch: number of images.
        grid: mask units per image, (frames,) rows and columns.

    Raises:
        InputError: its shape or type is another; the message has both shapes.
    """
    if not isinstance(mask, Tensor):
        raise InputError(f"mask of type {type(mask).__name__}: give a tensor of torch.bool")
    units = math.prod(grid)
    if tuple(mask.shape) != (batch, units):
        product = "x".join(str(side) for side in grid)
        raise InputError(f"mask {list(mask.shape)}: expected [{batch}, {units}], one value for each of {product} units")
    if mask.dtype != torch.bool:
        raise InputError(f"mask of {mask.dtype}: must be torch.bool, true for the mask units that are kept")


def kept_units(mask: Tensor) -> Tensor:
    """Numbers of the kept units ``[B, k]``, ascending, of a mask ``[B, U]``.

    Raises:
        InputError: the images keep different numbers of units, or none.
    """
    counts = mask.sum(dim=1).tolist()
    if min(counts, default=0) < 1 or len(set(counts)) > 1:
        raise InputError(f"mask keeps {counts} units of the images: each must keep as many, and at least 1")
    return mask.nonzero()[:, 1].view(mask.shape[0], -1)


def gather_units(tokens: Tensor, kept: Tensor, unit_tokens: int) -> Tensor:
    """The tokens of the kept units.

    Args:
        tokens: ``[1, U * t, C]``, the same for all images, mask-unit-major.
        kept: numbers of the units ``[B, k]``.
        unit_tokens: t.

    Returns:
        tokens ``[B, k * t, C]``.
    """
    units = tokens.view(-1, unit_tokens, tokens.shape[-1])
    # Not units[kept]: that would sort the numbers in the backward pass.
    return units.index_select(0, kept.flatten()).view(kept.shape[0], -1, tokens.shape[-1])


def unit_windows(images: Tensor, mask: Tensor, kept: Tensor, side: int, thickness: int = 0) -> Tensor:
    """Cut out the kept units with a border; what the stem makes of the border itself, first on each axis, is to drop.

    Args:
        images: ``[B, C, H, W]``, or clips ``[B, C, T, H, W]``.
        mask: ``[B, U]``, true for kept units.
        kept: their numbers ``[B, k]``.
        side: height and width of a mask unit in pixels.
        thickness: frames of a mask unit; 0 for images.

    Returns:
        ``[B * k, C, side + 4, side + 4]``, for clips ``[B * k, C, thickness + 2, side + 4, side + 4]``.
    """
    steps = (thickness, side, side) if thickness else (side, side)
    grid = [size // step for size, step in zip(images.shape[2:], steps, strict=True)]
    pixels = mask.view(-1, 1, *grid)
    for axis, step in enumerate(steps, start=2):
        pixels = pixels.repeat_interleave(step, dim=axis)
    # Zeros at the near end of each axis; `F.pad` counts the axes from the last.
    x = F.pad(images.masked_fill(~pixels, 0.0), (BORDER, 0, BORDER, 0, *((FRAME_BORDER, 0) if thickness else ())))
    borders = (FRAME_BORDER, BORDER, BORDER) if thickness else (BORDER, BORDER)
    for axis, (step, border) in enumerate(zip(steps, borders, strict=True), start=2):
        x = x.unfold(axis, step + border, step)
    # [B, C, *grid, *window], a view in which neighbours overlap: only the kept windows are copied.
    x = x.movedim(1, len(grid) + 1)
    place = torch.arange(len(images), device=kept.device)[:, None], *_unravel(kept, grid)
    return x[place].flatten(0, 1)


def _unravel(numbers: Tensor, grid: list[int]) -> list[Tensor]:
    """Row-major numbers as coordinates, one tensor per axis."""
    coordinates: list[Tensor] = []
    for side in reversed(grid):
        coordinates.insert(0, numbers % side)
        numbers = numbers.div(side, rounding_mode="floor")
    return coordinates
