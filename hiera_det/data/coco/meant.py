"""What an annotation was to be where it is not as COCO has them: its keys, its references, its polygons."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Container, Iterable, Sequence
from typing import Any

from hiera_det.data.coco.findings import short

__all__ = [
    "IMAGE_KEYS",
    "KEYS",
    "all_finite",
    "id_remedy",
    "meant_id",
    "meant_key",
    "meant_polygons",
    "shift_of",
    "shift_of_images",
]

#: What annotations may hold; keys that are nearly one of these are misspelt.
KEYS = ("id", "image_id", "category_id", "bbox", "segmentation", "area", "iscrowd", "keypoints")
#: What images must have beside an id.
IMAGE_KEYS = ("file_name", "width", "height")
#: Other tools' words for them, without case and signs.
_SYNONYMS = {
    "crowd": "iscrowd",
    "boundingbox": "bbox",
    "box": "bbox",
    "mask": "segmentation",
    **dict.fromkeys(("masks", "polygon", "polygons", "segment", "segments"), "segmentation"),
}


def meant_key(key: str, present: Container[str], keys: Sequence[str] = KEYS) -> str | None:
    """The key of COCO's that a key of an annotation was to be; None if it is one, or like none that is not there.

    Args:
        key: as it is written.
        present: keys that are there.
        keys: of the entry, in COCO's words.
    """
    if key in keys:
        return None
    plain = {known.replace("_", ""): known for known in keys if known not in present}
    mine = "".join(character for character in key.lower() if character.isalnum())
    close = difflib.get_close_matches(mine, plain, n=1, cutoff=0.8)
    synonym = _SYNONYMS.get(mine) if keys is KEYS else None
    meant = synonym or (plain[close[0]] if close else None)
    return None if meant is None or meant in present else meant


def meant_id(value: Any, known: Container[Any]) -> Any:
    """The known id that a reference of the other type means: 3 for "3", "3" for 3; None if there is none."""
    other: int | str | None = None
    if type(value) is int and abs(value) < 2**63:
        other = str(value)
    elif isinstance(value, str) and value.strip().isdecimal() and len(value) < 20:  # longer ones are no ids
        other = int(value)
    return other if other is not None and other in known else None


def shift_of(used: Collection[int], known: Collection[int]) -> int:
    """What to add to the category ids that annotations use so that all are known, 1 or -1; 0 where that is not so."""
    if set(used) <= set(known):
        return 0
    return next((shift for shift in (1, -1) if {value + shift for value in used} <= set(known)), 0)


def shift_of_images(used: Collection[Any], known: Collection[Any]) -> int:
    """The same for ids of images, of which some lack in many data sets: the one unknown must be next to an end."""
    if not known or not all(type(id_) is int for id_ in (*used, *known)):
        return 0
    ends = {frozenset([min(known) - 1]): 1, frozenset([max(known) + 1]): -1}
    shift = ends.get(frozenset(used).difference(known), 0)
    return shift if {value + shift for value in used} <= set(known) else 0


def id_remedy(key: str, meant: Any) -> str:
    """What to do about a reference of the wrong type."""
    many = "images" if key == "image_id" else "categories"
    return f"write {key} as {short(meant)}, the same kind as in '{many}'; `hiera-det check ... --fix OUT.json` does so"


def meant_polygons(mask: Any) -> list[list[Any]] | None:
    """Polygons as COCO has them, where a mask has its points as pairs, or is one polygon; else None.

    [[x, y], ...], [[[x, y], ...], ...], OpenCV's [[[x, y]], ...], {"x": x, "y": y} for [x, y], and
    [x, y, x, y, ...] without a list around it.
    """
    if not isinstance(mask, list) or not mask:
        return None
    alone = _flat(mask)
    if alone and len(alone) >= 6:
        return [alone]
    flat = [_flat(polygon) for polygon in mask]
    meant = [polygon for polygon in flat if polygon]
    return meant if len(meant) == len(mask) and meant != mask else None


def _flat(polygon: Any) -> list[Any] | None:
    """Points as x, y, x, y, ...; None where they are none."""
    if not isinstance(polygon, list) or not polygon:
        return None
    points = [_point(p[0] if isinstance(p, list) and len(p) == 1 else p) for p in polygon]
    if all(isinstance(p, list) and len(p) == 2 and all_finite(p) for p in points):
        return [value for point in points for value in point]
    return polygon if len(polygon) % 2 == 0 and all_finite(polygon) else None


def _point(value: Any) -> Any:
    return [value["x"], value["y"]] if isinstance(value, dict) and value.keys() == {"x", "y"} else value


def all_finite(numbers: Iterable[Any]) -> bool:
    """Whether all are numbers that a double can hold, and not infinite."""
    try:
        return all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
    except OverflowError:
        return False
