"""Position embeddings for any image size (Ryali et al. 2023: one absolute embedding, learned at 224 x 224)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hiera_det.modeling.tokens import Stride, unroll

__all__ = ["PositionCache", "resize_pos_embed"]


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
    if size == grid:
        return grid_map
    # Cubic weights in half precision would move the embedding by more than its resampling does.
    resized = F.interpolate(
        grid_map.permute(0, 3, 1, 2).float(), size=size, mode="bicubic", align_corners=False, antialias=False
    )
    return resized.permute(0, 2, 3, 1).to(pos_embed.dtype)


class PositionCache:
    """The position embedding of the last image size, in token order.

    It is used only where no gradient is recorded, and made anew whenever the parameter has changed in any way.
    """

    def __init__(self) -> None:
        self._key: tuple[object, ...] | None = None
        self._tokens: Tensor | None = None

    def tokens(
        self, pos_embed: Tensor, grid: tuple[int, int], size: tuple[int, int], q_strides: Sequence[Stride]
    ) -> Tensor:
        """Position embedding ``[1, H * W, C]`` for a map of ``size``, in the order of `unroll`."""
        usable = not (torch.is_grad_enabled() or torch.compiler.is_compiling() or pos_embed.is_inference())
        key = (size, pos_embed.data_ptr(), pos_embed._version, pos_embed.dtype, pos_embed.device) if usable else None
        if key is not None and key == self._key and self._tokens is not None:
            return self._tokens
        resized = resize_pos_embed(pos_embed, grid, size)
        tokens = unroll(resized, q_strides).reshape(1, size[0] * size[1], -1)
        if key is not None:
            self._key, self._tokens = key, tokens
        return tokens
