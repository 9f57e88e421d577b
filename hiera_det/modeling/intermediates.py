"""Looking inside a trunk: the tokens after every block, and the attention's weights.

Letters: B images, N tokens per image, k kept mask units, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hiera_det.errors import InputError
from hiera_det.modeling.block import HieraBlock
from hiera_det.modeling.hiera import HieraBase

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
    trunk: HieraBase, images: Tensor, *, mask: Tensor | None = None, attentions: bool = False
) -> Intermediates:
    """Run a trunk, or the trunk of a classifier or an MAE, and keep what is between.

    Args:
        trunk: the model; its stages after the last one that it returns are not there.
        images: as for `Hiera.forward`.
        mask: as for `Hiera.forward`.
        attentions: compute the attention's weights too, which takes a second pass over each block's attention and, for
            global attention, ``N * N`` numbers per head.

    Raises:
        InputError: images or a mask that the trunk cannot take, or attentions of a block that somebody has replaced.
    """
    before = trunk.embed(images, mask)
    hidden, weights = [before.map()], []
    for i, tokens in trunk.run(before):
        if attentions:
            block = trunk.blocks[i]
            if not isinstance(block, HieraBlock):
                raise InputError(f"attentions: trunk.blocks[{i}] is no HieraBlock but {type(block).__name__}")
            weights.append(block.attn.weights(block.norm1(before.x), before.grid))
        hidden.append(tokens.map())
        before = tokens
    return Intermediates(tuple(hidden), tuple(weights))
