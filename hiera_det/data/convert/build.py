"""Putting a COCO JSON together: images with their sizes, classes by name, objects with boxes and masks."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hiera_det.data.coco.geometry import drawn_area
from hiera_det.data.coco.read import read_json
from hiera_det.data.images import read_header
from hiera_det.errors import InputError
from hiera_det.files import write_atomically

__all__ = ["CocoBuilder", "Size", "read_class_names"]

Size = tuple[int, int]

#: Endings of image files, in the order in which they are tried where a name has none.
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")


@dataclass
class CocoBuilder:
    """A data set that grows.

    Attributes:
        image_root: folder that the file names start from.
        class_names: in the order of their ids, from 1.
        notes: what was decided or left out, and how often.
    """

    image_root: str
    class_names: Sequence[str]
    notes: Counter[str] = field(default_factory=Counter)
    _images: list[dict[str, Any]] = field(default_factory=list)
    _annotations: list[dict[str, Any]] = field(default_factory=list)

    def add_image(self, path: str, stated: tuple[Any, Any] = (None, None), by: str = "") -> Size:
        """Add an image file; what is added next is in it. Returns its width and height as it is shown.

        Args:
            path: the file.
            stated: width and height that its annotations were made at; what is no number or 0 is not known.
            by: the file that states them.

        Raises:
            BadImageError: it cannot be read.
            InputError: its size is not the stated one.
        """
        header = read_header(path)
        known = [_side(side) or own for side, own in zip(stated, (header.width, header.height), strict=True)]
        if known != [header.width, header.height]:
            raise InputError(
                f"{by}: its image has {known[0]:g}x{known[1]:g} pixels there, but {path} has "
                f"{header.width}x{header.height}; give the image that was labelled, or scale the annotations and "
                "correct the size"
            )
        # As shown, EXIF's orientation applied: labelling tools show, and YOLO's fractions are of, the upright image.
        name = os.path.relpath(path, self.image_root).replace(os.sep, "/")
        size = {"width": header.width, "height": header.height}
        self._images.append({"id": len(self._images) + 1, "file_name": name, **size})
        return header.width, header.height

    def add_box(self, class_name: str, box: Sequence[float], *, crowd: bool = False) -> None:
        """Add an object of a class by its box, XYWH in pixels."""
        x, y, width, height = (round(float(value), 3) for value in box)
        self._add(class_name, [x, y, width, height], width * height, crowd, {})

    def add_polygons(self, class_name: str, polygons: Sequence[Sequence[float]], *, crowd: bool = False) -> None:
        """Add an object of a class by its outlines, x1, y1, x2, y2, ... in pixels; its box is theirs."""
        outlines = [np.round(np.array(polygon, float), 3) for polygon in polygons]
        points = np.concatenate([outline.reshape(-1, 2) for outline in outlines])
        box = np.round([*points.min(0), *np.ptp(points, 0)], 3).tolist()
        mask = [outline.tolist() for outline in outlines]
        self._add(class_name, box, round(drawn_area(outlines), 3), crowd, {"segmentation": mask})

    def add_mask(self, class_name: str, mask: npt.NDArray[np.bool_]) -> None:
        """Add an object of a class by its pixels ``[H, W]``; none where none is set."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            self.notes["mask left out: it is empty"] += 1
            return
        pixels = np.concatenate([[False], mask.flatten(order="F")])  # runs begin with one of what is not set
        ends = [*np.flatnonzero(np.diff(pixels)), mask.size]
        runs = {"size": list(mask.shape), "counts": np.diff(ends, prepend=0).tolist()}
        box = [float(columns[0]), float(rows[0]), float(np.ptp(columns) + 1), float(np.ptp(rows) + 1)]
        self._add(class_name, box, float(mask.sum()), False, {"segmentation": runs})

    def _add(self, class_name: str, box: list[float], area: float, crowd: bool, mask: dict[str, Any]) -> None:
        entry = {"id": len(self._annotations) + 1, "image_id": len(self._images)}
        entry["category_id"] = self.class_names.index(class_name) + 1
        self._annotations.append({**entry, "bbox": box, "area": area, "iscrowd": int(crowd), **mask})

    def write(self, target: str | Path) -> None:
        """Write the JSON; it appears when it is complete.

        Raises:
            InputError: there is no image.
            WriteError: it cannot be written.
        """
        if not self._images:
            raise InputError(f"{self.image_root}: no images found")
        categories = [{"id": id_, "name": name} for id_, name in enumerate(self.class_names, start=1)]
        data = {"info": {}, "images": self._images, "annotations": self._annotations, "categories": categories}
        content = json.dumps(data).encode()
        write_atomically(target, lambda file: file.write(content))


def _side(value: Any) -> float:
    """A stated width or height; 0 where it is not known."""
    try:
        side = float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return side if 0 < side < float("inf") else 0.0


def read_class_names(path: str) -> list[str]:
    """Names of classes in their order, from a text of one a line or from a COCO JSON.

    Raises:
        InputError: it cannot be read, or names a class twice.
    """
    if path.lower().endswith(".json"):
        data = read_json(path)
        categories = data.get("categories") if isinstance(data, dict) else None
        if not isinstance(categories, list) or not all(isinstance(c, dict) and "name" in c for c in categories):
            raise InputError(f"{path}: has no categories with names; give a COCO JSON, or a text with a name a line")
        names = [str(c["name"]) for c in sorted(categories, key=lambda c: str(c.get("id")).zfill(20))]
    else:
        names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not names or len(set(names)) < len(names):
        raise InputError(f"{path}: {'names a class twice' if names else 'names no class'}; give each class a line")
    return names


def read_text(path: str | Path) -> str:
    """A text file.

    Raises:
        InputError: it is not there, or no UTF-8 text.
    """
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is no text in UTF-8; save it as such") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def image_of(stem: str) -> str | None:
    """The image file of a name without ending, whatever the ending's case; None if there is none."""
    for ending in ENDINGS:
        for path in (stem + ending, stem + ending.upper()):
            if os.path.isfile(path):
                return path
    return None


def images_in(folder: str) -> list[str]:
    """Image files of a folder and those in it, sorted."""
    found = []
    for parent, _, names in os.walk(folder):
        found += [os.path.join(parent, name) for name in names if name.lower().endswith(ENDINGS)]
    return sorted(found)
