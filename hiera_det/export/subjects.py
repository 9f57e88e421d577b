"""What is exported: a model with named outputs, what it is given, and what a user outside Python has to know of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hiera_det.errors import InputError
from hiera_det.files import StrPath
from hiera_det.modeling.hiera import STAGES, Feature, Hiera, HieraBase
from hiera_det.tasks.transforms import EVAL_RATIO, UNIT
from hiera_det.weights.load import fit
from hiera_det.weights.model_file import load_classifier, read_model_file

if TYPE_CHECKING:
    from hiera_det.d2.predict.predictor import Predictor

__all__ = ["PARTS", "Subject", "detector_subject", "file_subject", "in_half"]

#: What can be exported of a model.
PARTS = ("trunk", "pyramid", "classifier", "detector")
#: Sides of an example whose size is free: no window, table or batch of it is a special case of the graph.
EXAMPLE_SIDES = (256, 320)


@dataclass(frozen=True)
class Subject:
    """What is exported.

    Attributes:
        part: one of `PARTS`.
        model: takes ``images`` and gives a dict of tensors; in eval mode, on the CPU.
        outputs: the names of what it gives, in order.
        shape: of one image or clip; the sides are those for which a graph of one size is made.
        facts: what to know for using it, as plain values: ``classes``, ``mean``, ``std``, ``colour_order``, ``size``.
    """

    part: str
    model: nn.Module
    outputs: tuple[str, ...]
    shape: tuple[int, ...]
    facts: Mapping[str, Any]

    @property
    def batched(self) -> bool:
        """Whether it takes several images; a detector takes one, ``[3, H, W]``."""
        return self.part != "detector"

    @property
    def least(self) -> int:
        """The least side in pixels of a graph for all sizes: two positions of the coarsest map."""
        return int(self.facts["size"]["at_least"])

    def example(self, dynamic: bool) -> Tensor:
        """Input to make a graph with."""
        sides = EXAMPLE_SIDES if dynamic else self.shape[-2:]
        image = torch.randn(*self.shape[:-2], *sides, generator=torch.Generator().manual_seed(0))
        if not self.batched:
            return (image * 64 + 128).clamp(0, 255)
        return image.expand(2 if dynamic else 1, *image.shape).contiguous()


class _Named(nn.Module):
    """A model's outputs by their names."""

    def __init__(self, model: nn.Module, neck: nn.Module | None = None) -> None:
        super().__init__()
        self.model, self.neck = model, neck

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images to maps by name, or to ``logits``."""
        found = self.model(images)
        if self.neck is not None:
            found = self.neck(found)
        return found if isinstance(found, dict) else {"logits": found}


def file_subject(source: StrPath, part: str, size: Sequence[int]) -> Subject:
    """What a file of weights has: a classifier, or a trunk with all its stages.

    Args:
        source: as of `hiera_det.weights.model_file.read_model_file`.
        part: ``trunk`` or ``classifier``; "" for what the file is of.
        size: height and width of a graph of one size; empty for the model's own.

    Raises:
        InputError: the file cannot be read or has no such part.
    """
    file = read_model_file(source)
    if not (part or "head.projection.weight" not in file.contents.heads):
        part = "classifier"
    if part == "classifier":
        model: HieraBase
        model, file = load_classifier(source)
        outputs: tuple[str, ...] = ("logits",)
        rule = {"resize_shorter_side": int(EVAL_RATIO * file.image_size), "crop": file.image_size}
    elif part in ("", "trunk"):
        model, part, rule = Hiera(**file.trunk_fields, out_features=STAGES), "trunk", {}
        model.load_state_dict(fit(file.contents, model)[0])
        outputs = model.out_features
    else:
        raise InputError(f"part {part}: {source} has none; export the folder of a detector's training")
    sides = tuple(size) or (file.image_size,) * 2
    shape = (model.in_channels, *((model.frames,) if model.frames else ()), *sides)
    facts = {"classes": list(file.classes), "mean": _plain(model.pixel_mean), "std": _plain(model.pixel_std)}
    facts |= {"colour_order": "RGB", "size": rule | _sides(model.feature_info)}
    return Subject(part, _Named(model).eval(), outputs, shape, facts)


def detector_subject(predictor: Predictor, part: str, size: Sequence[int]) -> Subject:
    """A trained detector, or its trunk, or trunk and pyramid.

    Args:
        predictor: has it; its threshold holds in the file.
        part: ``detector``, ``pyramid`` or ``trunk``; "" for the first.
        size: height and width of a graph of one size; empty for the square of ``INPUT.MIN_SIZE_TEST``.

    Raises:
        InputError: there is no such part.
    """
    from hiera_det.d2.predict.graph import DetectorGraph, output_names

    cfg, detector = predictor.cfg, predictor.model.cpu()
    backbone: Any = detector.backbone
    model: nn.Module
    rule = {"shortest_edge": cfg.INPUT.MIN_SIZE_TEST, "longest_edge": cfg.INPUT.MAX_SIZE_TEST}
    if part in ("", "detector"):
        part, model, outputs = "detector", DetectorGraph(detector), output_names(cfg)
        mean, std = [0.0] * 3, [1.0] * 3  # it normalises
    elif part == "trunk" or (part == "pyramid" and backbone.neck is not None):
        model = _Named(backbone.trunk, backbone.neck if part == "pyramid" else None)
        info = backbone.trunk.feature_info if part == "trunk" else backbone.neck.feature_info
        outputs = tuple(feature.name for feature in info)
        mean, std = list(cfg.MODEL.PIXEL_MEAN), list(cfg.MODEL.PIXEL_STD)
        rule |= _sides(info)
    else:
        raise InputError(f"part {part}: this detector has none; there are detector, trunk and, with a neck, pyramid")
    if cfg.MODEL.HIERA.SQUARE_PAD:
        rule["padded_square"] = cfg.MODEL.HIERA.SQUARE_PAD
    side = math.ceil((cfg.MODEL.HIERA.SQUARE_PAD or cfg.INPUT.MIN_SIZE_TEST or 800) / UNIT) * UNIT
    facts = {"classes": predictor.class_names, "mean": mean, "std": std, "colour_order": cfg.INPUT.FORMAT, "size": rule}
    return Subject(part, model.eval(), outputs, (3, *(size or (side, side))), facts)


def in_half(subject: Subject) -> Subject:
    """The same, computed in float16; of a detector trunk and pyramid. In and out goes float32."""
    subject = replace(subject, model=copy.deepcopy(subject.model))
    backbone = getattr(subject.model, "backbone", subject.model).half()
    backbone.register_forward_pre_hook(lambda _, args: tuple(x.half() for x in args))
    backbone.register_forward_hook(lambda _, args, maps: {name: x.float() for name, x in maps.items()})
    return subject


def _sides(maps: Sequence[Feature]) -> dict[str, int]:
    """What height and width must be; where sizes are free, exporters take no map of one position a side."""
    return {"multiple_of": UNIT, "at_least": max(feature.stride for feature in maps) + UNIT}


def _plain(values: Tensor | Sequence[float]) -> list[float]:
    return [round(float(value), 6) for value in values]
