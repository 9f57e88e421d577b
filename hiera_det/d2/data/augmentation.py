"""Augmentation of training images: detectron2's own multi-scale resizing, or large-scale jitter (``INPUT.LSJ``).

Large-scale jitter (Ghiasi et al. 2021, "Simple Copy-Paste", section 3; the Hiera paper's recipe, Table 15): a square of
``INPUT.LSJ.SIZE`` pixels is scaled by a factor drawn from ``INPUT.LSJ.SCALE``, the image is resized to fit into it, and
what is larger than ``SIZE`` is cropped at a random place. As in ViTDet the image is flipped first, what is smaller is
not padded here but by the model (``MODEL.HIERA.SQUARE_PAD``), and boxes are those of the cropped masks.
"""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation as detectron2_augmentation

from hiera_det.d2.config.layers import Layer, last_layer
from hiera_det.errors import InputError
from hiera_det.modeling.hiera import PATCH_STRIDE, UNIT_SIDES

__all__ = [
    "FixedSizeCrop",
    "ResizeScale",
    "ResizeShortestEdge",
    "build_augmentation",
    "check_lsj",
    "resized_shape",
    "settle_input",
]

logger = logging.getLogger("hiera_det.setup")

FLIPS = ("horizontal", "vertical", "none")
Polygon: TypeAlias = npt.NDArray[np.float64]  # [points, 2], x and y


def check_lsj(cfg: CfgNode) -> None:
    """Refuse settings of augmentation that cannot be used, before the model is built.

    Raises:
        InputError: ``INPUT.RANDOM_FLIP`` is unknown; or, with large-scale jitter, ``INPUT.LSJ.SIZE`` or ``SCALE`` is
            none, the model's ``SQUARE_PAD`` is smaller than the images, a second crop is asked for, or shapely, with
            which detectron2 crops polygons, is missing.
    """
    if cfg.INPUT.RANDOM_FLIP not in FLIPS:
        raise InputError(f"INPUT.RANDOM_FLIP {cfg.INPUT.RANDOM_FLIP!r}: choose {', '.join(FLIPS)}")
    lsj = cfg.INPUT.LSJ
    if not lsj.ENABLED:
        return
    step = PATCH_STRIDE * UNIT_SIDES[0]
    if lsj.SIZE <= 0 or lsj.SIZE % step:
        raise InputError(f"INPUT.LSJ.SIZE {lsj.SIZE}: give the side of the square in pixels, a multiple of {step}")
    if not _is_range(lsj.SCALE):
        raise InputError(
            f"INPUT.LSJ.SCALE {lsj.SCALE}: give two positive numbers, the smaller first, such as [0.1,2.0]"
        )
    pad = cfg.MODEL.HIERA.SQUARE_PAD
    if pad and pad < lsj.SIZE:
        raise InputError(
            f"MODEL.HIERA.SQUARE_PAD {pad} is smaller than INPUT.LSJ.SIZE {lsj.SIZE}: give both the same value"
        )
    if cfg.INPUT.CROP.ENABLED:
        raise InputError(
            "INPUT.CROP.ENABLED and INPUT.LSJ.ENABLED are both True: LSJ has its own crop; set one to False"
        )
    if cfg.MODEL.MASK_ON and importlib.util.find_spec("shapely") is None:
        raise InputError(
            "INPUT.LSJ.ENABLED: polygons are cropped by shapely, which is not installed: pip install shapely"
        )


def settle_input(cfg: CfgNode, layers: Sequence[Layer]) -> None:
    """Decide between large-scale jitter and detectron2's resizing where a config has both: the later counts; in place.

    Who sets ``INPUT.MIN_SIZE_TRAIN`` over a config with jitter wants images of that size, not squares of 1024 pixels.
    """
    jitter = last_layer(layers, "INPUT.LSJ.ENABLED", "INPUT.LSJ.SIZE", "INPUT.LSJ.SCALE")
    resizing = last_layer(layers, "INPUT.MIN_SIZE_TRAIN", "INPUT.MAX_SIZE_TRAIN")
    if not cfg.INPUT.LSJ.ENABLED or resizing <= jitter:
        return
    cfg.INPUT.LSJ.ENABLED = False
    if last_layer(layers, "MODEL.HIERA.SQUARE_PAD") <= jitter:  # the jitter's own
        cfg.MODEL.HIERA.SQUARE_PAD = 0
    logger.info(
        "INPUT.MIN_SIZE_TRAIN or MAX_SIZE_TRAIN is set: no large-scale jitter, and MODEL.HIERA.SQUARE_PAD %d",
        cfg.MODEL.HIERA.SQUARE_PAD,
    )


def _is_range(values: Any) -> bool:
    """Whether these are two positive numbers, not falling."""
    numbers = all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    return len(values) == 2 and numbers and 0 < values[0] <= values[1]


def build_augmentation(cfg: CfgNode) -> list[T.Augmentation]:
    """What is done to a training image and its annotations, in order.

    With ``INPUT.LSJ.ENABLED`` a flip as ``INPUT.RANDOM_FLIP`` says, the resize and the crop of large-scale jitter: no
    image is larger than ``INPUT.LSJ.SIZE`` afterwards. Otherwise detectron2's own resize by ``INPUT.MIN_SIZE_TRAIN``
    and flip.

    Raises:
        InputError: see `check_lsj`.
    """
    check_lsj(cfg)
    lsj = cfg.INPUT.LSJ
    if not lsj.ENABLED:
        return detectron2_augmentation(cfg, True)
    jitter = [ResizeScale(*lsj.SCALE, lsj.SIZE, lsj.SIZE), FixedSizeCrop((lsj.SIZE, lsj.SIZE), pad=False)]
    flip = cfg.INPUT.RANDOM_FLIP
    if flip == "none":
        return jitter
    return [T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical"), *jitter]


def resized_shape(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    """Height and width after a resize to a shortest edge: detectron2's, and of a sliver at least one pixel."""
    new_height, new_width = T.ResizeShortestEdge.get_output_shape(height, width, shortest, longest)
    return max(1, new_height), max(1, new_width)


class ResizeShortestEdge(T.ResizeShortestEdge):
    """detectron2's resize to a shortest edge, which a sliver of an image survives too."""

    @classmethod
    def like(cls, augmentation: T.Augmentation | T.Transform) -> T.Augmentation | T.Transform:
        """This in the place of detectron2's own; anything else as it is."""
        if type(augmentation) is not T.ResizeShortestEdge:
            return augmentation
        names = "short_edge_length", "max_size", "sample_style", "interp"
        return cls(*(getattr(augmentation, name) for name in names))

    def get_transform(self, image: npt.NDArray[Any]) -> T.Transform:
        """Resize to at least one pixel; detectron2 rounds 0.4 pixels to none, which cannot be resized to."""
        return _at_least_a_pixel(super().get_transform(image))


class ResizeScale(T.ResizeScale):
    """detectron2's resize to a randomly scaled square, which a sliver of an image survives too."""

    def get_transform(self, image: npt.NDArray[Any]) -> T.Transform:
        """Resize to at least one pixel."""
        return _at_least_a_pixel(super().get_transform(image))


def _at_least_a_pixel(resize: T.Transform) -> T.Transform:
    """A resize whose target has no side of length 0."""
    if not isinstance(resize, T.ResizeTransform):
        return resize
    height, width = (max(1, int(side)) for side in (resize.new_h, resize.new_w))
    return T.ResizeTransform(resize.h, resize.w, height, width, resize.interp)


class FixedSizeCrop(T.FixedSizeCrop):
    """detectron2's crop at a random place, by a window that ends where the image does."""

    def get_transform(self, image: npt.NDArray[Any]) -> T.Transform:
        """The crop; images smaller than the window stay whole."""
        (crop,) = super().get_transform(image).transforms
        height, width = image.shape[:2]
        return Crop(crop.x0, crop.y0, min(crop.w, width), min(crop.h, height), width, height)


class Crop(T.CropTransform):
    """detectron2's crop, which leaves polygons alone that lie inside the window.

    The parent mends each polygon before it cuts, and of one that crosses itself that can take a part away.
    """

    def apply_polygons(self, polygons: list[Polygon]) -> list[Polygon]:
        """Crop polygons ``[points, 2]``; each may become several, or none."""
        cropped: list[Polygon] = []
        for polygon in polygons:
            inside = (polygon >= (self.x0, self.y0)).all() and (polygon <= (self.x0 + self.w, self.y0 + self.h)).all()
            cropped += [self.apply_coords(polygon)] if inside else super().apply_polygons([polygon])
        return cropped
