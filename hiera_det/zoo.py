"""The published models by name, with or without weights: Hiera's sizes, SAM 2's HieraDet, timm's abs-win Hiera.

Each Hiera size is there as a trunk, as a classifier and as the autoencoder that pretrains it.
"""

from __future__ import annotations

from typing import Any, TypeVar

from hiera_det.files import StrPath
from hiera_det.modeling.classifier import HieraForClassification
from hiera_det.modeling.hiera import Hiera, HieraBase
from hiera_det.modeling.mae import HieraMAE
from hiera_det.modeling.variants import get_hieradet_variant, get_variant
from hiera_det.weights.load import load_weights

__all__ = [
    "build_hiera",
    "build_hieradet",
    "hiera_base",
    "hiera_base_plus",
    "hiera_classifier",
    "hiera_huge",
    "hiera_large",
    "hiera_mae",
    "hiera_small",
    "hiera_small_abswin",
    "hiera_tiny",
    "hieradet_base_plus",
    "hieradet_large",
    "hieradet_small",
    "hieradet_tiny",
]

Model = TypeVar("Model", bound=HieraBase)

#: Classes of the published classifiers: ImageNet-1k, and Kinetics-400 for clips.
IMAGE_CLASSES, CLIP_CLASSES = 1000, 400


def build_hiera(size: str, *, weights: StrPath = "", **overrides: Any) -> Hiera:
    """Build the trunk of a published size.

    Args:
        size: ``tiny``, ``small``, ``base``, ``base_plus``, ``large`` or ``huge``.
        weights: what to load into it: a file or folder, ``https://...``, ``hf://owner/name`` or ``timm://name``, in
            any of the layouts of `hiera_det.weights.layouts`; "" leaves it random. A report goes to the log.
        overrides: any field of `HieraOptions`, the size's own fields included; ``frames=16`` gives the video trunk.

    Raises:
        InputError: unknown size, a value that cannot be used, or weights that do not fit.
    """
    return _with_weights(Hiera(get_variant(size).options, **overrides), weights)


def hiera_classifier(
    size: str, num_classes: int | None = None, *, weights: StrPath = "", new_head: bool = False, **overrides: Any
) -> HieraForClassification:
    """Build the classifier of a published size, for images, or with ``frames=16`` for clips.

    Args:
        size: ``tiny``, ``small``, ``base``, ``base_plus``, ``large`` or ``huge``.
        num_classes: None for those of the published files: 1000 for images (ImageNet), 400 for clips (Kinetics).
        weights: as in `build_hiera`. The file's classifier is loaded with its trunk; where the file has none, as those
            of MAE pretraining, the report says that it is newly initialised.
        new_head: leave the file's last layer out, as for other classes of the same or another number.
        overrides: any argument of `HieraForClassification`, the size's own fields included.

    Raises:
        InputError: unknown size, a value that cannot be used, or weights that do not fit.
    """
    classes = num_classes if num_classes is not None else CLIP_CLASSES if overrides.get("frames") else IMAGE_CLASSES
    model = HieraForClassification(get_variant(size).options, num_classes=classes, **overrides)
    return _with_weights(model, weights, new_head)


def hiera_mae(size: str, *, weights: StrPath = "", **overrides: Any) -> HieraMAE:
    """Build the masked autoencoder of a published size, for images, or with ``frames=16`` for clips.

    Args:
        size: ``tiny``, ``small``, ``base``, ``base_plus``, ``large`` or ``huge``.
        weights: as in `build_hiera`. The file's decoder is loaded with its trunk; where the file has none, the report
            says that it is newly initialised.
        overrides: any argument of `HieraMAE`, the size's own fields included.

    Raises:
        InputError: unknown size, a value that cannot be used, or weights that do not fit.
    """
    return _with_weights(HieraMAE(get_variant(size).options, **overrides), weights)


def _with_weights(model: Model, weights: StrPath, new_head: bool = False) -> Model:
    """The model, with the weights that are named, if any."""
    if weights:
        load_weights(model, weights, new_head)
    return model


def build_hieradet(size: str, *, weights: StrPath = "", **overrides: Any) -> Hiera:
    """Build SAM 2's HieraDet: the trunk of a size with windows, a few global blocks and its position embedding.

    Args:
        size: ``tiny``, ``small``, ``base_plus`` or ``large``.
        weights: as in `build_hiera`.
        overrides: any field of `HieraOptions`.

    Raises:
        InputError: unknown size, a value that cannot be used, or weights that do not fit.
    """
    return _with_weights(Hiera(get_hieradet_variant(size).options, **overrides), weights)


def hiera_tiny(*, weights: StrPath = "", **overrides: Any) -> Hiera:
    """Hiera-T: 27 M parameters. Arguments as in `build_hiera`."""
    return build_hiera("tiny", weights=weights, **overrides)


def hiera_small(*, weights: StrPath = "", **overrides: Any) -> Hiera:
    """Hiera-S: 34 M parameters. Arguments as in `build_hiera`."""
    return build_hiera("small", weights=weights, **overrides)


def hiera_base(*, weights: StrPath = "", **overrides: Any) -> Hiera:
    """Hiera-B: 51 M parameters. Arguments as in `build_hiera`."""
    return build_hiera("base", weights=weights, **overrides)


def hiera_base_plus(*, weights: StrPath = "", **overrides: Any) -> Hiera:
    """Hiera-B+: 69 M parameters. Arguments as in `build_hiera`."""
    return build_hiera("base_plus", weights=weights, **overrides)


def hiera_large(*, weights: StrPath = "", **overrides: Any) -> Hiera:
    """Hiera-L: 213 M parameters. Arguments as in `build_hiera`."""
    return build_hiera("large", weights=weights, **overrides)


def hiera_huge(*, weights: StrPath = "", **overrides: Any) -> Hiera:
    """Hiera-H: 671 M parameters. Arguments as in `build_hiera`."""
    return build_hiera("huge", weights=weights, **overrides)


def hieradet_tiny(*, weights: StrPath = "", **overrides: Any) -> Hiera:
    """SAM 2's tiny trunk. Arguments as in `build_hieradet`."""
    return build_hieradet("tiny", weights=weights, **overrides)


def hieradet_small(*, weights: StrPath = "", **overrides: Any) -> Hiera:
    """SAM 2's small trunk. Arguments as in `build_hieradet`."""
    return build_hieradet("small", weights=weights, **overrides)


def hieradet_base_plus(*, weights: StrPath = "", **overrides: Any) -> Hiera:
    """SAM 2's base_plus trunk. Arguments as in `build_hieradet`."""
    return build_hieradet("base_plus", weights=weights, **overrides)


def hieradet_large(*, weights: StrPath = "", **overrides: Any) -> Hiera:
    """SAM 2's large trunk. Arguments as in `build_hieradet`."""
    return build_hieradet("large", weights=weights, **overrides)


def hiera_small_abswin(*, weights: StrPath = "", **overrides: Any) -> Hiera:
    """Timm's ``hiera_small_abswin_256``: absolute-window positions, scaled branches, no projected shortcut."""
    fields: dict[str, object] = {
        "pos_embed": "absolute_win",
        "pos_grid": (16, 16),
        "pos_antialias": True,
        "layer_scale": True,
        "project_shortcut": False,
    }
    return build_hiera("small", weights=weights, **(fields | overrides))
