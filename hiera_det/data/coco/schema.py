"""A COCO JSON in memory: annotations as columns, so that a million of them take little room and are checked at once.

COCO's own form, a dictionary per annotation, takes about 40 bytes for each number of a polygon and much time to walk
over. Here numbers lie in arrays, and records for a data loader or an evaluator are made from them
(`hiera_det.data.coco.write`). Boxes are COCO's XYWH in pixels.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hiera_det.errors import printable

__all__ = ["Annotations", "CocoData", "CocoSummary", "Contents", "ImageId", "StrPath"]

StrPath: TypeAlias = str | os.PathLike[str]
ImageId: TypeAlias = int | str
Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CocoSummary:
    """What a checked JSON holds; small, picklable, the same in every process.

    ``class_names``, ``category_ids`` and ``instance_counts`` run in ascending category id, the order in which
    detectors number the classes from 0. ``instance_counts`` leaves out crowd regions and what holds nothing to find.
    ``mask_format`` is "polygon", "bitmask" (an RLE mask occurs outside crowd regions) or None (an annotation has no
    ``segmentation``; ``without_mask`` has the first ids). ``gaps`` names what pycocotools would stumble over.
    ``fullest`` is the most objects that one image has, ``fullest_image`` that image's file name.
    """

    path: str
    image_root: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    instance_counts: tuple[int, ...]
    num_images: int
    num_annotations: int
    num_negatives: int
    num_without_mask: int
    mask_format: str | None
    gaps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    without_mask: tuple[int, ...] = ()
    num_crowd_only: int = 0
    fullest: int = 0
    fullest_image: str = ""
    exact_image_ids: bool = True

    def table(self) -> str:
        """What it holds, for people: a line of counts and one for each class."""
        negatives = f"{self.num_negatives} without annotations"
        masks = self.mask_format or ("not for all" if self.num_without_mask < sum(self.instance_counts) else "none")
        fullest = f"most objects in an image: {self.fullest}"
        lines = [
            f"{self.path}: {self.num_images} images ({negatives}), {self.num_annotations} annotations, masks: {masks}, "
            f"{fullest}",
            f"{'json id':>10}  {'index':>5}  {'instances':>9}  name",
        ]
        rows = zip(self.category_ids, self.class_names, self.instance_counts, strict=True)
        lines += [f"{id_:>10}  {index:>5}  {count:>9}  {name}" for index, (id_, name, count) in enumerate(rows)]
        return "\n".join(map(printable, lines))


@dataclass
class Annotations:
    """All annotations of a JSON, in its order.

    Attributes:
        ids: ``[N]``.
        image_ids: as in the JSON.
        category_ids: ``[N]``.
        boxes: ``[N, 4]``, XYWH.
        areas: ``[N]``; NaN where the JSON has none that is a number.
        crowd: ``[N]``, bool.
        polygon_starts: ``[N + 1]``: polygons ``polygon_starts[i]`` to ``polygon_starts[i + 1]`` are annotation i's.
        number_starts: ``[P + 1]``: where in ``numbers`` each polygon begins.
        numbers: x1, y1, x2, y2, ... of all polygons.
        rles: by annotation index, the RLE as it stands in the JSON.
        keypoints: by annotation index.
        odd: by index, the entries that are not what COCO asks for, as they stand; their places in the columns are
            filled with zeros. A check refuses each of them.
        key_sets: of each combination of keys how many annotations have it, and the index of the first.
    """

    ids: Ints
    image_ids: Sequence[ImageId]
    category_ids: Ints
    boxes: Floats
    areas: Floats
    crowd: npt.NDArray[np.bool_]
    polygon_starts: Ints
    number_starts: Ints
    numbers: Floats
    rles: Mapping[int, dict[str, Any]] = field(default_factory=dict)
    keypoints: Mapping[int, list[float]] = field(default_factory=dict)
    odd: Mapping[int, Any] = field(default_factory=dict)
    key_sets: Mapping[tuple[str, ...], tuple[int, int]] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many there are, odd ones included."""
        return len(self.ids)

    def polygons(self, index: int) -> list[Floats]:
        """The polygons of one annotation, as views of ``numbers``."""
        first, last = self.polygon_starts[index], self.polygon_starts[index + 1]
        bounds = self.number_starts[first : last + 1].tolist()
        return [self.numbers[start:stop] for start, stop in itertools.pairwise(bounds)]

    @property
    def has_mask(self) -> npt.NDArray[np.bool_]:
        """Which of them have polygons or an RLE, ``[N]``."""
        found = self.polygon_starts[1:] > self.polygon_starts[:-1]
        found[list(self.rles)] = True  # few in COCO: only crowd regions
        return found

    @property
    def is_empty(self) -> npt.NDArray[np.bool_]:
        """Which of them have neither a box with an area nor a mask, ``[N]``: there is nothing to find."""
        return ((self.boxes[:, 2] <= 0) | (self.boxes[:, 3] <= 0)) & ~self.has_mask


@dataclass
class CocoData:
    """One JSON as it was read.

    Attributes:
        path: the file.
        top: the top level without the annotations; what stands there is not checked yet.
        annotations: None where the key is missing or its value no list (which is then in ``top``).
        has_byte_order_mark: as Windows' editors put before UTF-8.
        contents: filled by a check that finds no error.
    """

    path: str
    top: dict[str, Any]
    annotations: Annotations | None
    has_byte_order_mark: bool = False
    contents: Contents | None = None


@dataclass(frozen=True)
class Contents:
    """What a JSON without errors holds, for loaders and evaluators.

    Attributes:
        images: entries by id, in the JSON's order.
        names: of the categories, by id.
        annotations: all of them.
        rows: index into ``images`` of each annotation, ``[N]``.
        areas: of each annotation in pixels, ``[N]``: the JSON's, else the mask's, else the box's.
    """

    images: Mapping[ImageId, dict[str, Any]]
    names: Mapping[int, str]
    annotations: Annotations
    rows: Ints
    areas: Floats
