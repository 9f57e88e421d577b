"""The published models by name, with or without weights: Hiera's sizes, SAM 2's HieraDet, timm's abs-win Hiera."""

from __future__ import annotations

from hiera_det.modeling.hiera import Hiera
from hiera_det.modeling.variants import get_hieradet_variant, get_variant

__all__ = [
    "build_hiera",
    "build_hieradet",
    "hiera_base",
    "hiera_base_plus",
    "hiera_huge",
    "hiera_large",
    "hiera_small",
    "hiera_small_abswin",
    "hiera_tiny",
    "hieradet_base_plus",
    "hieradet_large",
    "hieradet_small",
    "hieradet_tiny",
]


def build_hiera(size: str, *, weights: str = "", **overrides: object) -> Hiera:
    """Build the trunk of a published size.

    Args:
        size: ``tiny``, ``small``, ``base``, ``base_plus``, ``large`` or ``huge``.
        weights: what to load into it: a file or folder, ``https://...``, ``hf://owner/name`` or ``timm://name``, in
            any of the layouts of `hiera_det.weights.layouts`; "" leaves it random. A report goes to the log.
        overrides: any argument of `Hiera`, the size's own fields included; ``frames=16`` gives the video trunk.

    Raises:
        InputError: unknown size, a value that cannot be used, or weights that do not fit.
    """
    variant = get_variant(size)
    fields: dict[str, object] = {
        "embed_dim": variant.embed_dim,
        "num_heads": variant.num_heads,
        "depths": variant.depths,
    }
    trunk = Hiera(**(fields | overrides))  # type: ignore[arg-type]
    if weights:
        from hiera_det.weights.load import load_weights  # here, for it imports this module's neighbours

        load_weights(trunk, weights)
    return trunk


def build_hieradet(size: str, *, weights: str = "", **overrides: object) -> Hiera:
    """Build SAM 2's HieraDet: the trunk of a size with windows, a few global blocks and its position embedding.

    Args:
        size: ``tiny``, ``small``, ``base_plus`` or ``large``.
        weights: as in `build_hiera`.
        overrides: any argument of `Hiera`.

    Raises:
        InputError: unknown size, a value that cannot be used, or weights that do not fit.
    """
    variant = get_hieradet_variant(size)
    fields: dict[str, object] = {
        "pos_embed": "absolute_win",
        "pos_grid": variant.pos_grid,
        "window_size": variant.window_size,
        "global_blocks": variant.global_blocks,
    }
    return build_hiera(size, weights=weights, **(fields | overrides))


def hiera_tiny(*, weights: str = "", **overrides: object) -> Hiera:
    """Hiera-T: 27 M parameters. Arguments as in `build_hiera`."""
    return build_hiera("tiny", weights=weights, **overrides)


def hiera_small(*, weights: str = "", **overrides: object) -> Hiera:
    """Hiera-S: 34 M parameters. Arguments as in `build_hiera`."""
    return build_hiera("small", weights=weights, **overrides)


def hiera_base(*, weights: str = "", **overrides: object) -> Hiera:
    """Hiera-B: 51 M parameters. Arguments as in `build_hiera`."""
    return build_hiera("base", weights=weights, **overrides)


def hiera_base_plus(*, weights: str = "", **overrides: object) -> Hiera:
    """Hiera-B+: 69 M parameters. Arguments as in `build_hiera`."""
    return build_hiera("base_plus", weights=weights, **overrides)


def hiera_large(*, weights: str = "", **overrides: object) -> Hiera:
    """Hiera-L: 213 M parameters. Arguments as in `build_hiera`."""
    return build_hiera("large", weights=weights, **overrides)


def hiera_huge(*, weights: str = "", **overrides: object) -> Hiera:
    """Hiera-H: 671 M parameters. Arguments as in `build_hiera`."""
    return build_hiera("huge", weights=weights, **overrides)


def hieradet_tiny(*, weights: str = "", **overrides: object) -> Hiera:
    """SAM 2's tiny trunk. Arguments as in `build_hieradet`."""
    return build_hieradet("tiny", weights=weights, **overrides)


def hieradet_small(*, weights: str = "", **overrides: object) -> Hiera:
    """SAM 2's small trunk. Arguments as in `build_hieradet`."""
    return build_hieradet("small", weights=weights, **overrides)


def hieradet_base_plus(*, weights: str = "", **overrides: object) -> Hiera:
    """SAM 2's base_plus trunk. Arguments as in `build_hieradet`."""
    return build_hieradet("base_plus", weights=weights, **overrides)


def hieradet_large(*, weights: str = "", **overrides: object) -> Hiera:
    """SAM 2's large trunk. Arguments as in `build_hieradet`."""
    return build_hieradet("large", weights=weights, **overrides)


def hiera_small_abswin(*, weights: str = "", **overrides: object) -> Hiera:
    """Timm's ``hiera_small_abswin_256``: absolute-window positions, scaled branches, no projected shortcut."""
    fields: dict[str, object] = {
        "pos_embed": "absolute_win",
        "pos_grid": (16, 16),
        "pos_antialias": True,
        "layer_scale": True,
        "project_shortcut": False,
    }
    return build_hiera("small", weights=weights, **(fields | overrides))
