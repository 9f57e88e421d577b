"""The published Hiera sizes as data (Ryali et al. 2023, "Hiera", Table 2 and appendix)."""

from __future__ import annotations

from dataclasses import dataclass

from hiera_det.errors import InputError

__all__ = ["VARIANTS", "HieraVariant", "get_variant"]


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


def get_variant(name: str) -> HieraVariant:
    """Look a size up by name.

    Raises:
        InputError: no such size; the message lists the six.
    """
    try:
        return VARIANTS[name]
    except KeyError:
        raise InputError(f"unknown Hiera size {name!r}: choose one of {', '.join(VARIANTS)}") from None
