"""Position embeddings for any image size.

- One table, learned at 224 x 224 and resampled (Ryali et al. 2023): `resize_pos_embed`.
- The same table repeated, the recursive form of the next (Bolya et al. 2024, appendix): `tile_pos_embed`.
- A window part that repeats with the mask unit and a global part that is resampled (Bolya et al. 2024, "Window
  Attention is Bugged: How not to Interpolate Position Embeddings", section 3; used by SAM 2): `absolute_win_embed`.
- For video a spatial table and one over time, added (Ryali et al. 2023, appendix on video): `separable_embed`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hiera_det.modeling.fast.resampling import resample
from hiera_det.modeling.fast.sizes import is_size, repeat_to

__all__ = [
    "absolute_win_embed",
    "resize_pos_embed",
    "resize_temporal_embed",
    "separable_embed",
    "split_pos_embed",
    "tile_pos_embed",
]


def resize_pos_embed(pos_embed: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Resample a learned position embedding to another map size.

    Bicubic, corners not aligned, no antialiasing, as detectron2's and transformers' vision transformers do; timm
    antialiases, which differs even when enlarging.

    Args:
        pos_embed: ``[1, grid_h * grid_w, C]``, tokens in row-major order.
        grid: height and width it was learned at, in tokens.
        size: height and width wanted, in tokens.

    Returns:
        map ``[1, H, W, C]`` in the dtype of ``pos_embed``; the very values where ``size`` is ``grid``.
    """
    grid_map = pos_embed.reshape(1, *grid, -1)
    if is_size(size, grid):
        return grid_map
    return resample(grid_map.permute(0, 3, 1, 2), size, antialias=False).permute(0, 2, 3, 1)


def tile_pos_embed(pos_embed: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Repeat a learned position embedding over the map, cut off at the bottom and right.

    Args:
        pos_embed: ``[1, grid_h * grid_w, C]``, tokens in row-major order.
        grid: height and width it was learned at, in tokens.
        size: height and width wanted, in tokens.

    Returns:
        map ``[1, H, W, C]``.
    """
    return repeat_to(pos_embed.reshape(1, *grid, -1), *size)


def absolute_win_embed(pos_embed: Tensor, window: Tensor, size: tuple[int, int], antialias: bool) -> Tensor:
    """Repeat the window part over the map and add the resampled global part.

    Args:
        pos_embed: the global part ``[1, C, grid_h, grid_w]``.
        window: the part ``[1, C, 8, 8]`` that repeats with the mask unit.
        size: height and width wanted, in tokens; multiples of the window's.
        antialias: resample as timm's Hiera does; SAM 2 does not.

    Returns:
        map ``[1, H, W, C]``.
    """
    tiles = (1, 1, size[0] // window.shape[2], size[1] // window.shape[3])
    return (resample(pos_embed, size, antialias) + window.tile(tiles)).permute(0, 2, 3, 1)


def split_pos_embed(pos_embed: Tensor, grid: tuple[int, int], unit: int) -> tuple[Tensor, Tensor]:
    """Split a plain table into a part that repeats with the mask unit and the rest.

    The first is the mean over the table's mask units, the second what is left; at the table's own size their sum is the
    table, and at any other the repeating part stays in step with the units. The split is ours: the paper (Bolya et al.
    2024) learns the two parts.

    Args:
        pos_embed: ``[1, grid_h * grid_w, C]``, tokens in row-major order.
        grid: height and width it was learned at, in tokens; multiples of ``unit``.
        unit: side of a mask unit in tokens.

    Returns:
        the global part ``[1, C, grid_h, grid_w]`` and the window part ``[1, C, unit, unit]``, as `absolute_win_embed`
        takes them.
    """
    table = pos_embed.reshape(1, *grid, -1).permute(0, 3, 1, 2)
    rows, cols = grid[0] // unit, grid[1] // unit
    window = table.reshape(1, -1, rows, unit, cols, unit).mean(dim=(2, 4))
    return table - window.tile(1, 1, rows, cols), window


def separable_embed(
    spatial: Tensor, temporal: Tensor, grid: tuple[int, int], frames: int, size: tuple[int, int]
) -> Tensor:
    """Add the spatial and the temporal part; each is resampled where the clip has another size or length.

    Args:
        spatial: ``[1, grid_h * grid_w, C]``.
        temporal: ``[1, T, C]``.
        grid: height and width that the spatial part was learned at, in tokens.
        frames: length wanted, in tokens.
        size: height and width wanted, in tokens.

    Returns:
        maps ``[frames, H, W, C]``.
    """
    if temporal.shape[1] != frames:
        temporal = resize_temporal_embed(temporal, frames)
    return resize_pos_embed(spatial, grid, size) + temporal.view(frames, 1, 1, -1)


def resize_temporal_embed(temporal: Tensor, frames: int) -> Tensor:
    """Resample ``[1, T, C]`` to ``[1, frames, C]``, linearly."""
    return F.interpolate(temporal.transpose(1, 2), size=frames, mode="linear", align_corners=False).transpose(1, 2)
