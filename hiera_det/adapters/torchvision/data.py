"""Images of a COCO JSON with torchvision's targets, augmented, in batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from hiera_det.data.bad_images import BadImages
from hiera_det.data.images import MAX_PIXELS, BadImageError, check_size, read_image
from hiera_det.engine.loader import Refused
from hiera_det.tasks.batches import Skipped

__all__ = ["DetectionBatch", "DetectionReader", "DetectionSample", "collate_detection"]


class DetectionSample(NamedTuple):
    """An image ``[3, H, W]`` of 0 to 255, its target (see `DetectionReader`), its id in the JSON, and its path."""

    image: Tensor
    target: dict[str, Tensor]
    image_id: Any
    file: str


class DetectionBatch(NamedTuple):
    """Some images, each of its own size; fields as of `DetectionSample`."""

    images: list[Tensor]
    targets: list[dict[str, Tensor]]
    image_ids: list[Any]
    files: list[str]

    def to(self, device: torch.device) -> DetectionBatch:
        """The batch on a device, its images of 0 to 1, as torchvision's detectors want them."""
        # They travel as bytes, a quarter of what floats take.
        images = [image.to(device, non_blocking=True).float() / 255 for image in self.images]
        targets = [{name: x.to(device, non_blocking=True) for name, x in target.items()} for target in self.targets]
        return DetectionBatch(images, targets, self.image_ids, self.files)


class DetectionReader:
    """Reads a record's image and what is on it, for training flipped half of the time.

    A target has ``boxes`` ``[N, 4]`` (XYXY, pixels), ``labels`` ``[N]`` from 1 on, as 0 is the background, and
    ``masks`` ``[N, H, W]``. Crowd regions, and boxes of less than a pixel within the image, are left out.

    Args:
        train: flip, and give another image in the place of one that cannot be read.
        masks: give them.
        max_pixels: see `hiera_det.data.images`.
        bad_images: what becomes of files that cannot be read.
        targets: give them; otherwise they are empty.
    """

    def __init__(
        self,
        train: bool,
        masks: bool,
        max_pixels: int = MAX_PIXELS,
        bad_images: BadImages | None = None,
        targets: bool = True,
    ) -> None:
        self.train, self.masks, self.max_pixels, self.targets = train, masks, max_pixels, targets
        self.bad_images = bad_images or BadImages()
        flip = [v2.RandomHorizontalFlip()] if train else []
        self.augment = v2.Compose([*flip, v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=1)])

    def __call__(self, record: Mapping[str, Any]) -> DetectionSample | Skipped | None:
        """A record of `hiera_det.data.coco.records.CocoRecords` to a sample.

        Raises:
            InputError: the file cannot be read.
        """
        file = record["file_name"]
        try:
            picture = read_image(file, max_pixels=self.max_pixels)
            check_size(file, picture.size, (record["width"], record["height"]))
        except BadImageError as error:
            self.bad_images.add(error)
            return None if self.train else Skipped(file)
        image: Tensor = v2.functional.to_image(picture)
        target: dict[str, Tensor] = {}
        if self.targets:
            image, target = self.augment(image, self._target(record))
        plain = {name: value.as_subclass(Tensor) for name, value in target.items()}
        return DetectionSample(image.as_subclass(Tensor), plain, record["image_id"], file)

    def _target(self, record: Mapping[str, Any]) -> dict[str, Tensor]:
        """The objects of an image, as it is in the file."""
        size = (record["height"], record["width"])
        objects = [one for one in record["annotations"] if not one["iscrowd"]]
        xywh = torch.tensor([one["bbox"] for one in objects], dtype=torch.float32).reshape(-1, 4)
        xyxy = torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1)
        target: dict[str, Tensor] = {
            "boxes": tv_tensors.BoundingBoxes(xyxy, format="XYXY", canvas_size=size),  # type: ignore[call-overload]
            "labels": torch.tensor([one["category_id"] + 1 for one in objects], dtype=torch.int64),
        }
        if self.masks:
            maps = [_mask(one["segmentation"], size) for one in objects]
            stacked = np.stack(maps) if maps else np.zeros((0, *size), np.uint8)
            target["masks"] = tv_tensors.Mask(torch.from_numpy(stacked))
        return target


def _mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Polygons or an RLE as a map ``[H, W]``."""
    rle = (
        segmentation if isinstance(segmentation, dict) else coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    )
    decoded: np.ndarray[Any, np.dtype[np.uint8]] = coco_mask.decode(rle)
    return decoded


def collate_detection(samples: Sequence[Any]) -> DetectionBatch | Refused | None:
    """Samples to a batch, to the first of them that is refused, or to None where all are left out."""
    refused = next((sample for sample in samples if isinstance(sample, Refused)), None)
    there = [sample for sample in samples if isinstance(sample, DetectionSample)]
    if refused or not there:
        return refused
    return DetectionBatch(*(list(column) for column in zip(*there, strict=True)))
