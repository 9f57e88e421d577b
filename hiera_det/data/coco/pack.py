"""Annotations, one after the other, into columns."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np

from hiera_det.data.coco.schema import Annotations, ImageId

__all__ = ["MAX_AREA", "Packer"]

#: Largest area that COCO's evaluation knows, in pixels.
MAX_AREA = 10**10
_NUMBERS = frozenset((int, float))


class _OddError(ValueError):
    """An entry is not what COCO asks for."""


class Packer:
    """Takes annotations as dictionaries and keeps their numbers in arrays.

    Nothing is refused here: an entry that does not fit stays as it is, in ``odd``, for the check to say what is wrong.
    """

    def __init__(self) -> None:
        self._ids, self._categories = array("q"), array("q")
        self._image_ids: list[ImageId] = []
        self._boxes, self._areas, self._numbers = array("d"), array("d"), array("d")
        self._crowd = bytearray()
        self._polygon_starts, self._number_starts = array("q", [0]), array("q", [0])
        self._rles: dict[int, dict[str, Any]] = {}
        self._keypoints: dict[int, list[float]] = {}
        self._odd: dict[int, Any] = {}
        self._key_sets: dict[tuple[str, ...], tuple[int, int]] = {}

    def add(self, entry: Any) -> None:
        """Take the next entry of the list."""
        index = len(self._crowd)
        try:
            self._add(index, entry)
        except (_OddError, KeyError, TypeError, OverflowError, AttributeError):
            self._odd[index] = entry
            # Columns stay as long as the list, so that an index means the same in both.
            self._append(0, 0, 0, array("d", bytes(32)), float("nan"), 0, [])

    def _add(self, index: int, entry: dict[str, Any]) -> None:
        # `type` and not `isinstance`: a truth value is an integer to Python, and no coordinate.
        box, area = entry["bbox"], entry.get("area")
        crowd = entry.get("iscrowd", 0)
        if type(box) is not list or len(box) != 4 or not _NUMBERS.issuperset(map(type, box)) or entry.get("ignore"):
            raise _OddError
        if crowd not in (0, 1) or type(entry["id"]) is not int:
            raise _OddError
        polygons, rle = _mask(entry.get("segmentation"))
        keypoints = _keypoints(entry.get("keypoints"))
        self._append(
            entry["id"],
            _reference(entry["image_id"]),
            _reference(entry["category_id"]),
            array("d", box),
            _number(area),
            int(crowd),
            polygons,
        )
        if rle:
            self._rles[index] = rle
        if keypoints:
            self._keypoints[index] = keypoints
        # Exporters write a few combinations of keys; looking at these is looking at all annotations.
        keys = tuple(entry)
        count, first = self._key_sets.get(keys, (0, index))
        self._key_sets[keys] = (count + 1, first)

    def _append(
        self,
        id_: int,
        image_id: Any,
        category_id: Any,
        box: array[float],
        area: float,
        crowd: int,
        polygons: list[array[float]],
    ) -> None:
        ids = array("q", (id_, category_id))  # raises before anything is kept, where they are too large or no integers
        self._ids.append(ids[0])
        self._categories.append(ids[1])
        self._image_ids.append(image_id)
        self._boxes.extend(box)
        self._areas.append(area)
        self._crowd.append(crowd)
        for polygon in polygons:
            self._numbers.extend(polygon)
            self._number_starts.append(len(self._numbers))
        self._polygon_starts.append(len(self._number_starts) - 1)

    def finish(self) -> Annotations:
        """The columns; they share the memory that was filled, so that nothing can be added afterwards."""
        return Annotations(
            ids=np.frombuffer(self._ids, np.int64),
            image_ids=self._image_ids,
            category_ids=np.frombuffer(self._categories, np.int64),
            boxes=np.frombuffer(self._boxes, np.float64).reshape(-1, 4),
            areas=np.frombuffer(self._areas, np.float64),
            crowd=np.frombuffer(self._crowd, np.bool_),
            polygon_starts=np.frombuffer(self._polygon_starts, np.int64),
            number_starts=np.frombuffer(self._number_starts, np.int64),
            numbers=np.frombuffer(self._numbers, np.float64),
            rles=self._rles,
            keypoints=self._keypoints,
            odd=self._odd,
            key_sets=self._key_sets,
        )


def _mask(segmentation: Any) -> tuple[list[array[float]], dict[str, Any] | None]:
    if not segmentation:
        # Three ways to write that there is none; false, 0 and "" are mistakes.
        if segmentation is None or segmentation == [] or segmentation == {}:
            return [], None
        raise _OddError
    if type(segmentation) is dict:
        return [], segmentation
    if type(segmentation) is not list:
        raise _OddError
    polygons = []
    for polygon in segmentation:
        if (
            type(polygon) is not list
            or len(polygon) < 6
            or len(polygon) % 2
            or not _NUMBERS.issuperset(map(type, polygon))
        ):
            raise _OddError
        polygons.append(array("d", polygon))
    return polygons, None


def _keypoints(values: Any) -> list[float] | None:
    if not values:
        return None
    if type(values) is not list or len(values) % 3 or not _NUMBERS.issuperset(map(type, values)):
        raise _OddError
    return array("d", values).tolist()


def _reference(id_: Any) -> Any:
    """The id of an image or a category; tables write 3.0 for 3."""
    if type(id_) is float and id_.is_integer():
        return int(id_)
    if type(id_) is not int and type(id_) is not str:
        raise _OddError
    return id_


def _number(area: Any) -> float:
    # pycocotools leaves out objects of other areas without a word, perfect answers for them too.
    return float(area) if type(area) in _NUMBERS and 0 <= area <= MAX_AREA else float("nan")
