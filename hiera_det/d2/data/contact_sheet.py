"""A sheet of training images as the model sees them: augmented, with boxes, masks and class names.

It comes from the mapper of the training, so a wrong flip, a box in the wrong place or a class with another's name shows
before the training starts. Each cell is one draw of the augmentation, in grey up to the size that the model pads it to.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import BitMasks, Instances, PolygonMasks
from PIL import Image

from hiera_det.d2.data.mapper import build_train_mapper
from hiera_det.errors import InputError
from hiera_det.files import write_atomically
from hiera_det.report.drawing import Mask, Objects, class_name, draw_objects
from hiera_det.report.sheet import captioned, lay_out

__all__ = ["draw_augmented"]

COLUMNS = 4
CELL = 480  # side of one picture, pixels
CAPTION_HEIGHT = 22
GAP = 8
PADDING = (128, 128, 128)
#: Longer side in pixels of the cell from which an object is named; names would cover what is smaller.
NAMED_FROM = 20


def draw_augmented(cfg: CfgNode, path: str | Path, count: int = 16) -> Path:
    """Draw augmented training images of ``DATASETS.TRAIN`` on one sheet.

    Args:
        cfg: the training's config; its data sets are registered.
        path: a PNG, written in one step.
        count: number of pictures; the images are spread evenly over the data and come again, differently augmented,
            where there are not as many.

    Returns:
        ``path`` as a path.

    Raises:
        InputError: ``count`` is below 1, an image cannot be read, the augmentation cannot be built, or the sheet cannot
            be written.
    """
    if count < 1:
        raise InputError(f"count {count}: give the number of pictures, at least 1")
    mapper = build_train_mapper(cfg)
    records = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes", None)
    picked = (records[number * len(records) // count] for number in range(count))
    samples = [sample for sample in map(mapper, picked) if sample is not None]
    if not samples:
        raise InputError("none of the training images can be read")
    side = _common_side(cfg, samples)
    sheet = lay_out([_cell(sample, side, names, cfg.INPUT.FORMAT) for sample in samples], COLUMNS, GAP)
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: sheet.save(file, format="PNG"))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None
    return path


def _common_side(cfg: CfgNode, samples: Sequence[dict[str, Any]]) -> int:
    """Side in pixels of the square that a cell stands for, the same for all, so that their scales compare."""
    return cfg.MODEL.HIERA.SQUARE_PAD or max(max(sample["image"].shape[1:]) for sample in samples)


def _cell(sample: dict[str, Any], side: int, names: Sequence[str] | None, image_format: str) -> Image.Image:
    """One training sample with its caption."""
    height, width = sample["image"].shape[1:]
    instances = sample["instances"]
    canvas = _canvas(sample["image"].numpy(), side, image_format)
    picture = draw_objects(canvas, _objects(instances, CELL / side, names))
    caption = f"{width}x{height}, {len(instances)} objects: {Path(sample['file_name']).name}"
    return captioned(picture, caption, CAPTION_HEIGHT)


def _canvas(image: npt.NDArray[Any], side: int, image_format: str) -> npt.NDArray[np.uint8]:
    """An image ``[channels, H, W]`` at the cell's scale, in grey to the square's ``side``; ``[CELL, CELL, 3]``."""
    rgb = convert_image_to_rgb(np.ascontiguousarray(image.transpose(1, 2, 0)), image_format).astype(np.uint8)
    height, width = rgb.shape[:2]
    size = max(1, round(width * CELL / side)), max(1, round(height * CELL / side))
    canvas = Image.new("RGB", (CELL, CELL), PADDING)
    canvas.paste(Image.fromarray(rgb).resize(size, Image.Resampling.LANCZOS))
    return np.asarray(canvas)


def _objects(instances: Instances, scale: float, names: Sequence[str] | None) -> Objects:
    """The objects of one sample, in pixels of the cell."""
    boxes = instances.gt_boxes.tensor * scale  # XYXY
    large = ((boxes[:, 2:] - boxes[:, :2]).amax(dim=1) >= NAMED_FROM).tolist()
    classes = instances.gt_classes.tolist()
    labels = [class_name(category, names) if named else "" for category, named in zip(classes, large, strict=True)]
    masks = _masks(instances.gt_masks, scale) if instances.has("gt_masks") else None
    points = None
    if instances.has("gt_keypoints"):
        points = [one[one[:, 2] > 0, :2] * scale for one in instances.gt_keypoints.tensor.double().numpy()]
    return Objects(boxes.double().numpy(), labels, classes, masks, points)


def _masks(masks: PolygonMasks | BitMasks, scale: float) -> list[Mask]:
    """Polygons stay polygons, maps are resized into the cell."""
    if isinstance(masks, PolygonMasks):
        return [[polygon * scale for polygon in polygons] for polygons in masks.polygons]
    return [_resized(mask, scale) for mask in masks.tensor.numpy()]


def _resized(mask: npt.NDArray[np.bool_], scale: float) -> npt.NDArray[np.uint8]:
    """A map ``[H, W]`` in the left top corner of a cell, ``[CELL, CELL]``."""
    height, width = (max(1, round(side * scale)) for side in mask.shape)
    canvas = Image.new("L", (CELL, CELL))
    canvas.paste(Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST))
    return np.asarray(canvas)
