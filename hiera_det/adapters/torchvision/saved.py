"""Detectors of torchvision's from plain values, and from the files that a training leaves."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet

from hiera_det.adapters.torchvision.models import fasterrcnn_hiera, fcos_hiera, maskrcnn_hiera, retinanet_hiera
from hiera_det.errors import InputError
from hiera_det.files import StrPath
from hiera_det.weights.sources import read_weight_file

__all__ = ["SavedDetector", "build_detector", "load_detector"]

#: What builds each detector, and torchvision's class, whose arguments are its options.
BUILDERS: dict[str, tuple[Callable[..., nn.Module], type[nn.Module]]] = {
    "maskrcnn": (maskrcnn_hiera, MaskRCNN),
    "fasterrcnn": (fasterrcnn_hiera, FasterRCNN),
    "retinanet": (retinanet_hiera, RetinaNet),
    "fcos": (fcos_hiera, FCOS),
}
#: Fields that are the trunk's.
TRUNK = ("embed_dim", "num_heads", "depths")


class SavedDetector(NamedTuple):
    """A trained detector.

    Attributes:
        model: torchvision's, in evaluation mode: images ``[3, H, W]`` of 0 to 1 to boxes, labels, scores, masks.
        classes: names by label; the first, of label 0, is the background.
        category_ids: of the JSON that it was trained on, by label from 1 on.
    """

    model: nn.Module
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]


def build_detector(fields: Mapping[str, Any], weights: StrPath = "", **backbone: Any) -> nn.Module:
    """A detector from the fields that a training keeps.

    Args:
        fields: ``detector``, ``size``, ``num_classes`` without the background, ``image_size``, ``max_size``,
            ``options``, and what of the trunk's dimensions is not the size's.
        weights: of the trunk.
        backbone: more arguments of `HieraFPN`, such as ``drop_path_rate``.

    Raises:
        InputError: a field or option that cannot be used, or weights that do not fit.
    """
    options = dict(fields["options"])
    build, kind = BUILDERS[fields["detector"]]
    known = {"backbone", *inspect.signature(kind).parameters} - {"kwargs"}
    if unknown := sorted(options.keys() - known):  # torchvision takes them, and looks at none
        raise InputError(f"options {unknown[0]}: no argument of {kind.__name__}; there are {', '.join(sorted(known))}")
    trunk = {name: fields[name] for name in TRUNK if name in fields}
    sides = {"min_size": fields["image_size"], "max_size": fields["max_size"]}
    more = trunk | options.pop("backbone", {}) | backbone
    try:
        return build(fields["size"], fields["num_classes"] + 1, weights=weights, backbone=more, **(sides | options))
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"options {fields['options']}: {' '.join(str(error).split())}; give other values") from None


def load_detector(source: StrPath) -> SavedDetector:
    """The detector of a file that ``hiera-det train --framework torchvision`` has left, on the CPU.

    Args:
        source: ``model_final.pth``, ``model_best.pth``, or a checkpoint.

    Raises:
        InputError: it cannot be read, or holds no such detector.
    """
    content = read_weight_file(str(source))
    fields = content.get("config")
    if not isinstance(fields, dict) or fields.get("detector") not in BUILDERS:
        raise InputError(
            f"{source}: holds no detector of torchvision's; give a file of hiera-det train --framework torchvision"
        )
    try:
        model = build_detector(fields)
        model.load_state_dict(content["model_state"])
        classes, ids = tuple(content["classes"]), tuple(fields["category_ids"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{source}: is damaged ({' '.join(str(error).split())[:200]}); take the file as it was"
        ) from None
    return SavedDetector(model.eval(), ("background", *classes), ids)
