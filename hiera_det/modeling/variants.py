"""The published Hiera sizes as data (Ryali et al. 2023, "Hiera", Table 2 and appendix; SAM 2's configurations)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hiera_det.errors import InputError
from hiera_det.modeling.options import HieraOptions

__all__ = [
    "HIERADET_VARIANTS",
    "VARIANTS",
    "HieraDetVariant",
    "HieraVariant",
    "detector_fields",
    "get_hieradet_variant",
    "get_variant",
    "spread_global_blocks",
]


@dataclass(frozen=True)
class HieraVariant:
    """One size: what differs between the six; everything else is the same for all.

    Attributes:
        name: the word used in configs and function names (``hiera_<name>``).
        embed_dim: channels of stage 1; doubles at each later stage.
        num_heads: attention heads of stage 1; doubles at each later stage.
        depths: number of blocks in stages 1-4.
    """

    name: str
    embed_dim: int
    num_heads: int
    depths: tuple[int, int, int, int]

    @property
    def options(self) -> HieraOptions:
        """What its trunk is built from."""
        return HieraOptions(self.embed_dim, self.num_heads, self.depths)


VARIANTS: dict[str, HieraVariant] = {
    variant.name: variant
    for variant in (
        HieraVariant("tiny", 96, 1, (1, 2, 7, 2)),
        HieraVariant("small", 96, 1, (1, 2, 11, 2)),
        HieraVariant("base", 96, 1, (2, 3, 16, 3)),
        HieraVariant("base_plus", 112, 2, (2, 3, 16, 3)),
        HieraVariant("large", 144, 2, (2, 6, 36, 4)),
        HieraVariant("huge", 256, 4, (2, 6, 36, 4)),
    )
}


@dataclass(frozen=True)
class HieraDetVariant:
    """What SAM 2's HieraDet of one size has besides that size's own fields.

    Attributes:
        name: the size, as in `HieraVariant`.
        window_size: side of the attention windows of stages 1-4, in tokens.
        global_blocks: blocks that attend over the whole image, counted from 0 over all stages.
        pos_grid: height and width of the position embedding's global part.
    """

    name: str
    window_size: tuple[int, int, int, int]
    global_blocks: tuple[int, ...]
    pos_grid: tuple[int, int]

    @property
    def options(self) -> HieraOptions:
        """What its trunk is built from."""
        return VARIANTS[self.name].options.replace(
            pos_embed="absolute_win",
            pos_grid=self.pos_grid,
            window_size=self.window_size,
            global_blocks=self.global_blocks,
        )


HIERADET_VARIANTS: dict[str, HieraDetVariant] = {
    variant.name: variant
    for variant in (
        HieraDetVariant("tiny", (8, 4, 14, 7), (5, 7, 9), (7, 7)),
        HieraDetVariant("small", (8, 4, 14, 7), (7, 10, 13), (7, 7)),
        HieraDetVariant("base_plus", (8, 4, 14, 7), (12, 16, 20), (14, 14)),
        HieraDetVariant("large", (8, 4, 16, 8), (23, 33, 43), (7, 7)),
    )
}


def get_variant(name: str) -> HieraVariant:
    """Look a size up by name.

    Raises:
        InputError: no such size; the message lists the six.
    """
    try:
        return VARIANTS[name]
    except KeyError:
        raise InputError(f"unknown Hiera size {name!r}: choose one of {', '.join(VARIANTS)}") from None


def spread_global_blocks(depths: Sequence[int], count: int = 3) -> tuple[int, ...]:
    """Blocks of stage 3 to attend globally in a windowed trunk, by the rule that SAM 2's four sizes follow.

    The last block of the stage, and further ones before it at steps of two sevenths of the stage's depth. The stage's
    first block pools and keeps its window.

    Args:
        depths: blocks per stage.
        count: how many; fewer where the stage is too short.
    """
    first, last = sum(depths[:2]), sum(depths[:3]) - 1
    step = max(1, depths[2] * 2 // 7)
    return tuple(sorted(block for block in range(last, last - count * step, -step) if block > first))


def detector_fields(size: str, depths: Sequence[int] | None = None) -> dict[str, Any]:
    """Fields by which a size's trunk attends in windows and in three global blocks, as in the Mask R-CNN configs.

    Args:
        size: as of `get_variant`.
        depths: blocks per stage, where they are not the size's.
    """
    return {
        "window_size": (8, 4, 16, 8) if size in ("large", "huge") else (8, 4, 14, 7),
        "global_blocks": spread_global_blocks(depths or get_variant(size).depths),
        "window_padding": "mask",
    }


def get_hieradet_variant(name: str) -> HieraDetVariant:
    """Look a size of SAM 2's HieraDet up by name.

    Raises:
        InputError: no such size; the message lists the four.
    """
    try:
        return HIERADET_VARIANTS[name]
    except KeyError:
        raise InputError(f"unknown HieraDet size {name!r}: choose one of {', '.join(HIERADET_VARIANTS)}") from None
