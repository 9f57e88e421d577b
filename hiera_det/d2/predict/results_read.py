"""A results file of ours or another tool's, brought to a COCO JSON's ids and checked entry by entry.

COCO's form is a list of objects ``{"image_id", "category_id", "bbox" [x, y, width, height], "score", "segmentation"}``.
Where entries have ``file_name`` or ``category_name``, as ours have, these count, and the ids are the JSON's; an
``image_id`` may be the file's name without its ending, as some tools write it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pycocotools import mask as coco_mask

from hiera_det.data.classes import match_classes
from hiera_det.data.coco.read import read_coco, read_json
from hiera_det.data.coco.rle import run_lengths
from hiera_det.errors import InputError
from hiera_det.predict.image_ids import ImageIds

__all__ = ["read_results"]


def read_results(path: str, truth: str) -> list[dict[str, Any]]:
    """Read results for the images of a COCO JSON.

    Args:
        path: the results.
        truth: the JSON, which is checked.

    Returns:
        entries with the JSON's ids; all of them have ``bbox``, or ``segmentation``, or both.

    Raises:
        InputError: an entry is not as COCO's, or of an image or class that the JSON does not have.
    """
    entries = read_json(path)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(
            f"{path}: must be a list of objects with image_id, category_id, bbox and score, as COCO's results are"
        )
    reader = _Reader(path, truth, entries)
    results = [reader.read(index, entry) for index, entry in enumerate(entries)]
    for key in ("bbox", "segmentation"):
        without = [index for index, result in enumerate(results) if key not in result]
        if without and len(without) < len(results):
            raise InputError(f"{path}[{without[0]}]: has no {key}, and others have one; give all of them one, or none")
    return results


class _Reader:
    """Brings entries to a JSON's ids."""

    def __init__(self, path: str, truth: str, entries: Sequence[Mapping[str, Any]]) -> None:
        data = read_coco(truth).top
        self.path, self.truth = path, truth
        self.images = {image["id"]: image for image in data["images"]}
        self.categories = {category["id"] for category in data["categories"]}
        self.names = ImageIds(data["images"])
        self.by_name = self._ids_of_names(data["categories"], entries)

    def _ids_of_names(
        self, categories: Sequence[Mapping[str, Any]], entries: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The JSON's ids of the classes that entries name."""
        names = list(dict.fromkeys(str(entry["category_name"]) for entry in entries if "category_name" in entry))
        known = [str(category["name"]) for category in categories]
        match = match_classes(known, names)
        if match.new:
            raise InputError(f"{self.path}: class {match.new[0]!r} is none of {self.truth}'s, {known[:20]}; rename it")
        return {name: categories[row]["id"] for name, row in zip(names, match.rows, strict=True) if row is not None}

    def read(self, index: int, entry: Mapping[str, Any]) -> dict[str, Any]:
        """One entry, checked."""
        where = f"{self.path}[{index}]"
        image = self._image(where, entry)
        result = {"image_id": image["id"], "category_id": self._category(where, entry)}
        result["score"] = entry.get("score")
        if not _are_numbers([result["score"]], 1):
            raise InputError(f"{where}: score {result['score']!r} must be a number")
        if "bbox" in entry:
            if not _are_numbers(entry["bbox"], 4) or min(entry["bbox"][2:]) < 0:
                raise InputError(f"{where}: bbox {entry['bbox']!r} must be [x, y, width, height], four finite numbers")
            result["bbox"] = entry["bbox"]
        if "segmentation" in entry:
            result["segmentation"] = _as_rle(where, entry["segmentation"], image)
        if "bbox" not in entry and "segmentation" not in entry:
            raise InputError(f"{where}: has neither bbox nor segmentation")
        return result

    def _image(self, where: str, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        """The JSON's image of an entry."""
        id_, name = entry.get("image_id"), entry.get("file_name")
        if isinstance(name, str):
            id_ = self.names.of_file(name)
        elif isinstance(id_, int | str) and type(id_) is not bool and id_ not in self.images:
            id_ = self.names.of_stem(id_)
        if type(id_) not in (int, str) or id_ not in self.images:
            shown = f"file_name {name!r}" if isinstance(name, str) else f"image_id {entry.get('image_id')!r}"
            raise InputError(f"{where}: {shown} is none of the {len(self.images)} images of {self.truth}")
        return self.images[id_]

    def _category(self, where: str, entry: Mapping[str, Any]) -> Any:
        """The JSON's id of an entry's class."""
        if "category_name" in entry:
            return self.by_name[str(entry["category_name"])]
        id_ = entry.get("category_id")
        if type(id_) is not int or id_ not in self.categories:
            known = sorted(self.categories)[:10]
            raise InputError(
                f"{where}: category_id {id_!r} is none of {self.truth}'s, {known}; give the JSON's ids, not indices"
            )
        return id_


def _are_numbers(values: Any, count: int) -> bool:
    """Whether these are so many finite numbers."""
    return isinstance(values, list) and len(values) == count and all(map(_is_number, values))


def _is_number(value: Any) -> bool:
    # What is larger has no place among floats, or none in pycocotools.
    return type(value) in (int, float) and abs(value) < 1e9 and math.isfinite(value)


def _as_rle(where: str, mask: Any, image: Mapping[str, Any]) -> Any:
    """A mask as pycocotools' RLE; what it would read as another, or not at all, is refused."""
    height, width = image["height"], image["width"]
    if isinstance(mask, list) and mask and all(isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 for p in mask):
        if all(map(_is_number, (value for polygon in mask for value in polygon))):
            return coco_mask.merge(coco_mask.frPyObjects(mask, height, width))
    elif isinstance(mask, dict) and mask.get("size") == [height, width]:
        runs = run_lengths(mask.get("counts"))
        if runs is not None and int(runs.sum()) == height * width:
            return coco_mask.frPyObjects(mask, height, width) if isinstance(mask["counts"], list) else mask
    raise InputError(f"{where}: segmentation must be an RLE of {height}x{width} pixels (size, counts), or polygons")
