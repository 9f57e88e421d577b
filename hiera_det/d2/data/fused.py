"""Resize and crop in one: of what the resize would give, only the part that the crop leaves is computed.

Large-scale jitter enlarges an image up to four times and keeps a square of it; masks are as large. What comes out is
what a resize and a crop of its result give, to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, Instances
from PIL import Image
from pycocotools import mask as coco_mask

from hiera_det.d2.data.augmentation import FixedSizeCrop, ResizeScale, ResizeShortestEdge

__all__ = ["Plan", "ResizedCrop", "can_fuse", "instances_of_masks", "is_fused"]

Array: TypeAlias = npt.NDArray[Any]
#: Augmentations that look at an image's height and width alone, so that all can be drawn before one is applied.
BY_SHAPE = (T.RandomFlip, ResizeScale, ResizeShortestEdge, FixedSizeCrop)


def can_fuse(augmentations: Sequence[Any]) -> bool:
    """Whether there is a crop after a resize, and nothing that looks at pixels."""
    kinds = [type(augmentation) for augmentation in augmentations]
    return FixedSizeCrop in kinds and set(kinds) <= set(BY_SHAPE)


class Plan:
    """Takes augmentations as an image of that height and width would, and is none.

    Args:
        height: of the image.
        width: likewise.

    Attributes:
        image: of the right shape, without memory.
    """

    def __init__(self, height: int, width: int) -> None:
        self.image = _without_memory(height, width)

    def transform(self, step: T.Transform) -> None:
        """Take the shape that a transform gives."""
        if isinstance(step, T.ResizeTransform):
            self.image = _without_memory(step.new_h, step.new_w)
        elif isinstance(step, T.CropTransform):
            self.image = _without_memory(step.h, step.w)

    def take(self, augmentations: Sequence[T.Augmentation]) -> T.TransformList:
        """The transforms that are drawn, each resize with the crop after it in one."""
        steps: list[T.Transform] = []
        for augmentation in augmentations:
            step = augmentation(self)
            last = steps[-1] if steps else None
            if isinstance(last, T.ResizeTransform) and isinstance(step, T.CropTransform):
                step = ResizedCrop(steps.pop(), step)
            steps.append(step)
        return T.TransformList(steps)


def _without_memory(height: int, width: int) -> Array:
    return np.broadcast_to(np.uint8(0), (height, width, 3))


class ResizedCrop(T.Transform):
    """A resize, and a crop of its result.

    Args:
        resize: the first.
        crop: the second.
    """

    def __init__(self, resize: T.ResizeTransform, crop: T.CropTransform) -> None:
        super().__init__()
        self.resize, self.crop = resize, crop

    def apply_image(self, image: Array, interp: int | None = None) -> Array:
        """``[H, W]`` or ``[H, W, channels]`` to the part inside the crop."""
        resize, crop = self.resize, self.crop
        if image.dtype != np.uint8 or (image.ndim == 3 and image.shape[2] not in (1, 3)):
            whole: Array = crop.apply_image(resize.apply_image(image, interp))
            return whole
        grey = image.ndim == 3 and image.shape[2] == 1
        picture = Image.fromarray(image[:, :, 0] if grey else image)
        per_x, per_y = resize.w / resize.new_w, resize.h / resize.new_h
        right, bottom = (crop.x0 + crop.w) * per_x, (crop.y0 + crop.h) * per_y
        box = (crop.x0 * per_x, crop.y0 * per_y, min(right, resize.w), min(bottom, resize.h))
        method: Any = resize.interp if interp is None else interp
        found = np.asarray(picture.resize((crop.w, crop.h), method, box))
        return found[:, :, None] if grey else found

    def apply_segmentation(self, segmentation: Array) -> Array:
        """The same by nearest pixels."""
        return self.apply_image(segmentation, Image.Resampling.NEAREST)

    def apply_coords(self, coords: Array) -> Array:
        """Points ``[N, 2]``, x and y."""
        found: Array = self.crop.apply_coords(self.resize.apply_coords(coords))
        return found

    def apply_polygons(self, polygons: list[Array]) -> list[Array]:
        """Polygons ``[points, 2]``; each may become several, or none."""
        found: list[Array] = self.crop.apply_polygons(self.resize.apply_polygons(polygons))
        return found


def is_fused(steps: T.TransformList, objects: Sequence[dict[str, Any]]) -> bool:
    """Whether `instances_of_masks` takes these transforms and objects."""
    *first, last = steps.transforms
    flips = all(isinstance(step, T.HFlipTransform | T.VFlipTransform | T.NoOpTransform) for step in first)
    return flips and isinstance(last, ResizedCrop) and all(isinstance(one.get("segmentation"), dict) for one in objects)


def _cropped_masks(rles: Sequence[dict[str, Any]], steps: T.TransformList) -> tuple[Array, Array]:
    """RLEs through flips, a resize and a crop, decoded once and no further than the crop.

    Args:
        rles: of one image.
        steps: of `Plan.take`, the last of them a `ResizedCrop`.

    Returns:
        masks ``[N, H, W]``, and their boxes ``[N, 4]``, of no size where the crop leaves nothing.
    """
    *flips, last = steps.transforms
    resize, crop = last.resize, last.crop
    rows = _nearest(crop.y0, crop.h, resize.h, resize.new_h)
    columns = _nearest(crop.x0, crop.w, resize.w, resize.new_w)
    masks: Array = np.zeros((len(rles), crop.h, crop.w), dtype=bool)
    boxes: Array = np.zeros((len(rles), 4), dtype=np.float32)
    for rle, mask, box in zip(rles, masks, boxes, strict=True):
        decoded = T.TransformList(flips).apply_segmentation(coco_mask.decode(rle)).view(bool)
        tall, wide = (_span(decoded.any(axis=axis), places) for axis, places in ((1, rows), (0, columns)))
        part = mask[tall, wide]
        part[...] = decoded[rows[tall]][:, columns[wide]]
        if part.any():
            (top, bottom), (left, right) = (_ends(part.any(axis=axis)) for axis in (1, 0))
            box[:] = wide.start + left, tall.start + top, wide.start + right, tall.start + bottom
    return masks, boxes


def _nearest(start: int, count: int, size: int, resized: int) -> npt.NDArray[np.int64]:
    """For each pixel from ``start`` on of a side that is resized, that of the original whose it takes."""
    places = (np.arange(start, start + count) + 0.5) * (size / resized)
    return np.minimum(places.astype(np.int64), size - 1)


def _span(there: npt.NDArray[np.bool_], places: npt.NDArray[np.int64]) -> slice:
    """Those of some places, in rising order, that lie between the first and the last where something is."""
    first, end = _ends(there)
    limits: Array = np.searchsorted(places, (first, end))
    return slice(int(limits[0]), int(limits[1]))


def _ends(there: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """The first place and the one after the last; equal where there is nothing."""
    if not there.any():
        return 0, 0
    return int(there.argmax()), len(there) - int(there[::-1].argmax())


def instances_of_masks(objects: Sequence[dict[str, Any]], steps: T.TransformList) -> Instances:
    """What of an image's objects the crop leaves, with classes, masks, and boxes around those."""
    masks, boxes = _cropped_masks([one["segmentation"] for one in objects], steps)
    kept = boxes[:, 2] > boxes[:, 0]
    found = Instances(masks.shape[1:])
    found.gt_boxes = Boxes(torch.from_numpy(boxes[kept]))
    found.gt_classes = torch.tensor([int(one["category_id"]) for one in objects], dtype=torch.int64)[kept]
    found.gt_masks = BitMasks(torch.from_numpy(masks if kept.all() else masks[kept]))
    return found
