"""Position embeddings for any image size.

- One table, learned at 224 x 224 and resampled (Ryali et al. 2023): `resize_pos_embed`.
- The same table repeated, the recursive form of the next (Bolya et al. 2024, appendix): `tile_pos_embed`.
- A window part that repeats with the mask unit and a global part that is resampled (Bolya et al. 2024, "Window
  Attention is Bugged: How not to Interpolate Position Embeddings", section 3; used by SAM 2): `absolute_win_embed`.
- For video a spatial table and one over time, added (Ryali et al. 2023, appendix on video): `separable_embed`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hiera_det.modeling.fast.linear import is_exporting

__all__ = [
    "PositionCache",
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
    # Compiled, resampling gives the same, and asking would make the table's own size a case, with a graph, of its own.
    if not torch.compiler.is_compiling() and size == grid:
        return grid_map
    return _resample(grid_map.permute(0, 3, 1, 2), size, antialias=False).permute(0, 2, 3, 1)


def tile_pos_embed(pos_embed: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Repeat a learned position embedding over the map, cut off at the bottom and right.

    Args:
        pos_embed: ``[1, grid_h * grid_w, C]``, tokens in row-major order.
        grid: height and width it was learned at, in tokens.
        size: height and width wanted, in tokens.

    Returns:
        map ``[1, H, W, C]``.
    """
    repeats = (1, -(-size[0] // grid[0]), -(-size[1] // grid[1]), 1)
    return pos_embed.reshape(1, *grid, -1).tile(repeats)[:, : size[0], : size[1]]


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
    return (_resample(pos_embed, size, antialias) + window.tile(tiles)).permute(0, 2, 3, 1)


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


def _resample(grid_map: Tensor, size: tuple[int, int], antialias: bool) -> Tensor:
    """``[1, C, h, w]`` to ``[1, C, *size]``, bicubic."""
    # Cubic weights in half precision would move the embedding by more than its resampling does.
    exact = grid_map.float() if grid_map.dtype in (torch.float16, torch.bfloat16) else grid_map
    opaque = torch.compiler.is_compiling() and not (is_exporting() or torch.is_grad_enabled())
    if opaque and grid_map.device.type == "cpu":
        return _opaque_bicubic(exact.permute(0, 2, 3, 1), *size, antialias).permute(0, 3, 1, 2).to(grid_map.dtype)
    return _bicubic(exact, size, antialias).to(grid_map.dtype)


def _bicubic(grid_map: Tensor, size: tuple[int, int], antialias: bool) -> Tensor:
    """``[1, C, h, w]`` to ``[1, C, *size]``."""
    return F.interpolate(grid_map, size=size, mode="bicubic", align_corners=False, antialias=antialias)


@torch.library.custom_op("hiera_det::bicubic", mutates_args=(), device_types="cpu")
def _opaque_bicubic(grid_map: Tensor, height: int, width: int, antialias: bool) -> Tensor:
    """``[1, h, w, C]`` to ``[1, height, width, C]``; what a compiler makes of it takes longer than several blocks."""
    return _bicubic(grid_map.permute(0, 3, 1, 2), (height, width), antialias).permute(0, 2, 3, 1).contiguous()


@_opaque_bicubic.register_fake
def _bicubic_shape(grid_map: Tensor, height: int, width: int, antialias: bool) -> Tensor:
    """What `_opaque_bicubic` returns, without values."""
    return grid_map.new_empty(1, height, width, grid_map.shape[3])


class PositionCache:
    """The position embedding of the last image size, in token order.

    It is used on a CPU only, where making it anew costs as much as a block or two, and where no gradient is recorded;
    and it holds copies of the parameters' values, for no counter of theirs tells of every change (``.data``).
    """

    def __init__(self) -> None:
        # One attribute, so that threads that share a model see all of it or nothing.
        self._kept: tuple[tuple[int, ...], list[Tensor], Tensor] | None = None

    def tokens(self, parameters: Sequence[Tensor], layout: tuple[int, ...], make: Callable[[], Tensor]) -> Tensor:
        """Position embedding ``[1, N, C]``, in the tokens' order.

        Args:
            parameters: what it is made from.
            layout: the map's size and the order of its tokens, which with the parameters decide the values.
            make: gives the embedding in that order, ``[..., C]``.
        """
        off = torch.compiler.is_compiling() or is_exporting() or torch.is_grad_enabled()
        if off or any(parameter.device.type != "cpu" for parameter in parameters):
            return _as_tokens(make())
        kept = self._kept
        if kept is None or kept[0] != layout or not _all_equal(kept[1], parameters):
            kept = layout, [parameter.detach().clone() for parameter in parameters], _as_tokens(make())
            self._kept = kept
        return kept[2]


def _as_tokens(embedding: Tensor) -> Tensor:
    """``[..., C]`` to ``[1, N, C]``."""
    return embedding.reshape(1, -1, embedding.shape[-1])


def _all_equal(saved: Sequence[Tensor], parameters: Sequence[Tensor]) -> bool:
    """Whether the parameters still have the saved values and types."""
    return len(saved) == len(parameters) and all(
        a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(saved, parameters, strict=True)
    )
