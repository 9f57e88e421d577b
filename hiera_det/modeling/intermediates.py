"""Looking inside a trunk: the tokens after every block, and the attention's weights.

A path of its own, so that the trunk's forward has nothing to ask in its loop. Letters: B images, N tokens per image,
k kept mask units, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hiera_det.modeling.block import HieraBlock
from hiera_det.modeling.hiera import Hiera
from hiera_det.modeling.masking import check_mask, kept_units
from hiera_det.modeling.tokens import UnitGrid

__all__ = ["Intermediates", "intermediates"]


@dataclass(frozen=True)
class Intermediates:
    """What a trunk computed on the way.

    Attributes:
        hidden_states: the embedded images, then the output of each block, as maps ``[B, C, H/s, W/s]``; for clips
            ``[B, C, T/2, H/s, W/s]``; with a mask those of the kept units, ``[B, k, C, unit, unit]``.
        attentions: each block's weights ``[B, windows, heads, queries, keys]`` as of `MaskUnitAttention.weights`, or
            nothing where they were not asked for.
    """

    hidden_states: tuple[Tensor, ...]
    attentions: tuple[Tensor, ...] = ()


def intermediates(
    trunk: Hiera, images: Tensor, *, mask: Tensor | None = None, attentions: bool = False
) -> Intermediates:
    """Run a trunk, or the trunk of a classifier or an MAE, and keep what is between.

    Args:
        trunk: the model; its stages after the last one that it returns are not there.
        images: as for `Hiera.forward`.
        mask: as for `Hiera.forward`.
        attentions: compute the attention's weights too, which takes a second pass over each block's attention and, for
            global attention, ``N * N`` numbers per head.

    Raises:
        InputError: images or a mask that the trunk cannot take.
    """
    trunk._check_images(images)
    x, size, grid = _embed(trunk, images, mask)
    hidden, weights = [_shaped(trunk, x, size, 0, grid)], []
    for i, block in enumerate(trunk.blocks):
        assert isinstance(block, HieraBlock)
        if attentions:
            weights.append(block.attn.weights(block.norm1(x), grid))
        x = block(x, grid)
        hidden.append(_shaped(trunk, x, size, trunk._stage_of(i), grid))
    return Intermediates(tuple(hidden), tuple(weights))


def _embed(trunk: Hiera, images: Tensor, mask: Tensor | None) -> tuple[Tensor, tuple[int, ...] | None, UnitGrid]:
    """The first block's tokens, the map's size in tokens or None with a mask, and the order of the units."""
    if mask is None:
        return trunk._embed(images)
    trunk.check_maskable()
    check_mask(mask, len(images), trunk.unit_grid(images))
    x, grid = trunk._embed_kept(images, mask.to(images.device), kept_units(mask).to(images.device))
    return x, None, grid


def _shaped(trunk: Hiera, x: Tensor, size: tuple[int, ...] | None, stage: int, grid: UnitGrid) -> Tensor:
    """Tokens as a map, or as maps of the kept units."""
    if size is None:
        return trunk._to_units(x, stage)
    return trunk._to_map(x, size, stage, grid.group)
