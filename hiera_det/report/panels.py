"""An image's annotations and what was found of it, drawn side by side at the size of a panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask

from hiera_det.data.images import check_size, read_image
from hiera_det.report.drawing import Mask, Objects, class_name, draw_objects

__all__ = ["PANEL_SIDE", "draw_panels", "objects_of", "panel_size", "placed"]

PANEL_SIDE = 640  # longest side of one panel, pixels


def draw_panels(
    record: dict[str, Any], found: Sequence[Mapping[str, Any]], names: Sequence[str], side: int
) -> list[Image.Image]:
    """An image's annotations, and what was found of it.

    Args:
        record: of `hiera_det.data.coco.records.CocoRecords`.
        found: like the record's annotations, with ``score``.
        names: of the classes.
        side: of the pictures, the longer one, in pixels.

    Raises:
        BadImageError: the image cannot be read.
    """
    image = read_image(record["file_name"])
    check_size(record["file_name"], image.size, (record["width"], record["height"]))
    size = panel_size(image.height, image.width, side)
    panel = np.asarray(image.resize((size[1], size[0]), Image.Resampling.BICUBIC))
    both = (record["annotations"], found)
    return [draw_objects(panel, objects_of(objects, (image.height, image.width), size, names)) for objects in both]


def panel_size(height: int, width: int, side: int = PANEL_SIDE) -> tuple[int, int]:
    """Height and width of a panel; a sliver of an image is drawn thicker than it is."""
    scale = side / max(height, width)
    return max(round(height * scale), 16), max(round(width * scale), 16)


def objects_of(
    annotations: Sequence[Mapping[str, Any]],
    image_size: tuple[int, int],
    size: tuple[int, int],
    names: Sequence[str] | None,
) -> Objects:
    """The annotations of one image, or detections in their form, from ``image_size`` to ``size`` (height, width).

    Boxes are XYWH, ``category_id`` an index; what ``score``, ``iscrowd`` and ``remark`` say stands after the class.
    """
    scale = np.array([size[1] / image_size[1], size[0] / image_size[0]])  # x, y
    boxes = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = [class_name(a["category_id"], names) + _remark(a) for a in annotations]
    masks: list[Mask] | None = None
    if any(a.get("segmentation") for a in annotations):
        masks = [_mask(a.get("segmentation"), scale, size) for a in annotations]
    points = None
    if any("keypoints" in a for a in annotations):
        points = [placed(np.array(a.get("keypoints", ()), np.float64).reshape(-1, 3), 0) * scale for a in annotations]
    return Objects(boxes * np.tile(scale, 2), labels, [a["category_id"] for a in annotations], masks, points)


def _remark(annotation: Mapping[str, Any]) -> str:
    """What stands after the class."""
    score = f" {annotation['score']:.2f}" if "score" in annotation else ""
    return score + (" (crowd)" if annotation.get("iscrowd", 0) else "") + annotation.get("remark", "")


def placed(keypoints: npt.NDArray[np.float64], least: float) -> npt.NDArray[np.float64]:
    """Places of keypoints ``[K, 3]`` whose visibility or score is above ``least``."""
    return keypoints[keypoints[:, 2] > least, :2]


def _mask(segmentation: Any, scale: npt.NDArray[np.float64], size: tuple[int, int]) -> Mask:
    """A COCO segmentation at the panel's size: polygons stay polygons, RLE becomes a map, nothing an empty list."""
    if not segmentation:
        return []
    if isinstance(segmentation, dict):
        rle = segmentation
        if isinstance(rle["counts"], list):  # uncompressed
            rle = coco_mask.frPyObjects(rle, *rle["size"])
        decoded = Image.fromarray(np.ascontiguousarray(coco_mask.decode(rle)))
        return np.asarray(decoded.resize((size[1], size[0]), Image.Resampling.NEAREST))
    return [(np.asarray(polygon, dtype=np.float64).reshape(-1, 2) * scale).reshape(-1) for polygon in segmentation]
