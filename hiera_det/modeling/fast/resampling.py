"""Bicubic resampling of a table of positions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hiera_det.modeling.fast.paths import Kernel, Path, choose, without_half

__all__ = ["resample"]


def resample(grid_map: Tensor, size: tuple[int, int], antialias: bool) -> Tensor:
    """``[1, C, h, w]`` to ``[1, C, *size]``, bicubic, corners not aligned; in float32 at least."""
    # Cubic weights in half precision would move the embedding by more than its resampling does.
    exact = without_half(grid_map)
    if choose(Path.RESAMPLING, exact) is Kernel.OPAQUE:
        resized = _opaque_bicubic(exact.permute(0, 2, 3, 1), *size, antialias).permute(0, 3, 1, 2)
    else:
        resized = _bicubic(exact, size, antialias)
    return resized.to(grid_map.dtype)


def _bicubic(grid_map: Tensor, size: tuple[int, int], antialias: bool) -> Tensor:
    return F.interpolate(grid_map, size=size, mode="bicubic", align_corners=False, antialias=antialias)


@torch.library.custom_op("hiera_det::bicubic", mutates_args=(), device_types="cpu")
def _opaque_bicubic(grid_map: Tensor, height: int, width: int, antialias: bool) -> Tensor:
    """``[1, h, w, C]`` to ``[1, height, width, C]``; what a compiler makes of it takes longer than several blocks."""
    return _bicubic(grid_map.permute(0, 3, 1, 2), (height, width), antialias).permute(0, 2, 3, 1).contiguous()


@_opaque_bicubic.register_fake
def _bicubic_shape(grid_map: Tensor, height: int, width: int, antialias: bool) -> Tensor:
    """What `_opaque_bicubic` returns, without values."""
    return grid_map.new_empty(1, height, width, grid_map.shape[3])
