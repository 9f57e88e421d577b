"""Checks of a JSON's categories and images, and of those annotations that are not what COCO asks for."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from hiera_det.data.coco.findings import Findings, kind_of, listed, short
from hiera_det.data.coco.formats import recognised
from hiera_det.data.coco.meant import IMAGE_KEYS, all_finite, id_remedy, meant_id, meant_key, meant_polygons
from hiera_det.data.coco.schema import ImageId

__all__ = [
    "check_categories",
    "check_images",
    "check_keys",
    "check_lists",
    "check_odd",
    "id_remedy",
    "is_side",
    "meant_id",
    "meant_key",
    "meant_polygons",
]

#: Beyond it a double, which other tools keep ids in, does not tell an integer from its neighbours.
EXACT = 2**53
#: What to do about ids of categories that are texts.
_NUMBERED = "let `hiera-det check ... --fix OUT.json` write ids that are texts as integers"
#: What to do about annotations without a box, as VIA writes points.
_BOXED = "let `hiera-det check ... --fix OUT.json` take the box of the mask, or leave out what has none"
#: What to do about images without sizes, which Label Studio writes for those that it could not load.
_SIZED = "let `hiera-det check ... --fix OUT.json` write the file's size"
#: Combinations of keys that are looked at for misspelt ones; annotations of one tool have a few.
MAX_KEY_SETS = 100
#: Most pixels along a side that an image may be said to have.
MAX_SIDE = 10**6


def check_lists(top: Mapping[str, Any], findings: Findings, *, packed: bool) -> bool:
    """Whether the three lists are there (``packed``: that of annotations is), with at least one image and category."""
    for key in ("images", "annotations", "categories"):
        if key == "annotations" and packed:
            continue
        if key not in top:
            has = listed(sorted(top)) if top else "none"
            other = recognised(Path(findings.file), dict(top)).removeprefix("; ")
            findings.add("lists", f"key '{key}' is missing (keys present: {has})", remedy=other or None)
        elif not isinstance(top[key], list):
            findings.add("lists", f"'{key}' is {kind_of(top[key])}, not a list", remedy="")
        elif not top[key]:
            one = "image" if key == "images" else "category"
            said = f"'{key}' is empty; a data set needs at least one {one}"
            findings.add("lists", said, remedy=_empty_remedy(key, top))
        else:
            for index, entry in enumerate(top[key]):
                if not isinstance(entry, dict):
                    findings.add("lists", f"{key}[{index}] is {kind_of(entry)}, not an object", remedy="")
                    break
    return "lists" not in findings


def _empty_remedy(key: str, top: Mapping[str, Any]) -> str:
    """What to do about a list without entries, where the tool that wrote it is known for it."""
    info = top.get("info")
    if key == "categories" and isinstance(info, dict) and "VIA" in str(info.get("description")):
        return "VIA exports attributes of type dropdown, radio or checkbox only: change the type there, export again"
    return ""


def check_categories(categories: list[dict[str, Any]], used: set[int], findings: Findings) -> dict[int, str]:
    """Names by category id, without the unused twins of used ones.

    Args:
        categories: the JSON's.
        used: ids that annotations name.
        findings: is added to.
    """
    sound = []
    for index, category in enumerate(categories):
        where = f"categories[{index}]"
        missing = [key for key in ("id", "name") if key not in category]
        if missing:
            findings.add("category", f"{where}: {_missing(missing[0], category)}", remedy="")
        # Results carry these ids, and other tools keep them in doubles.
        elif type(category["id"]) is not int or abs(category["id"]) > EXACT:
            said = f"{where}: id {short(category['id'])} must be an integer"
            findings.add("category", said, remedy=_NUMBERED if type(category["id"]) is str else "")
        elif not isinstance(category["name"], str) or not category["name"].strip():
            said = f"category {category['id']}: name {short(category['name'])} must be a text"
            findings.add("category", said, remedy="")
        else:
            sound.append(category)
    _refuse_duplicates((c["id"] for c in sound), "category ids", "category-twice", findings)
    kept = _without_unused_twins(sound, used, findings)
    _refuse_duplicates((c["name"] for c in kept), "category names", "category-twice", findings)
    _tell_alike({category["name"] for category in kept}, findings)
    return {category["id"]: category["name"] for category in kept}


def _tell_alike(names: set[str], findings: Findings) -> None:
    """Tell of names that people take for the same."""
    alike: dict[str, list[str]] = {}
    for name in sorted(names):
        alike.setdefault("".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    for same in alike.values():
        if len(same) > 1:
            findings.add("category-alike", f"categories differ by blanks or letter case only: {listed(same)}")


def _without_unused_twins(categories: list[dict[str, Any]], used: set[int], findings: Findings) -> list[dict[str, Any]]:
    """Of categories with one name, the one that is used; where none is, not the one that stands above the others."""
    kept = []
    named = Counter(category["name"] for category in categories)
    in_use = Counter(category["name"] for category in categories if category["id"] in used)
    above = {text for category in categories if isinstance(text := category.get("supercategory"), str)}
    for category in categories:
        name = category["name"]
        is_root = name in above and category.get("supercategory") in (None, "none", "")
        if named[name] > 1 and category["id"] not in used and (in_use[name] or is_root):
            findings.add(
                "category-unused-twin",
                f"category {category['id']} ({short(category['name'])}) has the name of another one and no annotation: "
                "dropped",
            )
        else:
            kept.append(category)
    return kept


def check_images(images: list[dict[str, Any]], findings: Findings) -> dict[ImageId, dict[str, Any]]:
    """Image entries by id; those that cannot be used are left out."""
    found = {}
    ids = []
    for index, image in enumerate(images):
        told, remedy = _image_fault(index, image)
        if told:
            id_ = image.get("id")
            findings.add("image", told, remedy=remedy, image_id=id_ if type(id_) in (int, str) else None)
        else:
            ids.append(image["id"])
            found[image["id"]] = image
    kinds = Counter(type(id_).__name__ for id_ in ids)
    if len(kinds) > 1:
        said = f"image ids are mixed ({kinds['int']} integers, {kinds['str']} texts)"
        findings.add("image-id-mixed", said)
    _refuse_duplicates(ids, "image ids", "image-id-twice", findings)
    # detectron2 and pycocotools take them; faster-coco-eval does not.
    inexact = [id_ for id_ in ids if type(id_) is str or abs(id_) > EXACT]
    if inexact and len(kinds) == 1:
        said = f"{len(inexact)} image ids are texts or beyond 2^53: {listed(inexact)}"
        findings.add("image-id-inexact", said, image_id=inexact[0], count=len(inexact))
    _tell_files_twice(found, findings)
    return found


def _image_fault(index: int, image: dict[str, Any]) -> tuple[str, str]:
    """What is wrong with an image's entry, and what to do about it; nothing where it is sound."""
    where = f"images[{index}]"
    for key in ("id", "file_name"):
        if key not in image:
            return f"{where}: {_missing(key, image)}", _renamed(key, image)
    if type(image["id"]) not in (int, str):
        return f"{where}: id {short(image['id'])} must be an integer or a text", ""
    if type(image["id"]) is int and not -(2**63) <= image["id"] < 2**63:
        return f"{where}: id {short(image['id'])} must be an integer of 64 bits", ""
    if not isinstance(image["file_name"], str) or not image["file_name"]:
        return f"image {short(image['id'])}: file_name {short(image['file_name'])} must be a text", ""
    for key in ("width", "height"):
        if key not in image:
            return f"{where}: {_missing(key, image)}", _renamed(key, image) or _SIZED
        if not is_side(image[key]):
            said = f"image {short(image['id'])} ({short(image['file_name'])}): {key} {short(image[key])}"
            return f"{said} must be a positive integer, in pixels", _SIZED
    return "", ""


def _renamed(missing: str, image: Mapping[str, Any]) -> str:
    """What to do about a key of an image that is there under a misspelt name; "" where none is."""
    wrong = next((key for key in image if meant_key(key[:40], image, IMAGE_KEYS) == missing), None)
    return f"rename {short(wrong)} to '{missing}', or let `hiera-det check ... --fix OUT.json` do it" if wrong else ""


def is_side(value: Any) -> bool:
    """Whether an image may be so wide or high."""
    return type(value) is int and 0 < value <= MAX_SIDE


def _tell_files_twice(images: Mapping[ImageId, Mapping[str, Any]], findings: Findings) -> None:
    first: dict[str, ImageId] = {}
    for id_, image in images.items():
        name = image["file_name"]
        name = os.path.normpath(name) if "/" in name else name
        if first.setdefault(name, id_) != id_:
            said = f"image {short(id_)} is the same file as image {short(first[name])}: {short(name)}"
            findings.add("image-file-twice", said, image_id=id_)


def check_keys(key_sets: Mapping[tuple[str, ...], tuple[int, int]], ids: Any, findings: Findings) -> None:
    """Tell of keys of annotations that are nearly one that COCO has."""
    for keys, (count, first) in islice(key_sets.items(), MAX_KEY_SETS):
        for key in keys:
            if meant := meant_key(key[:40], keys):
                said = f"{count} annotations have {short(key)} where COCO has '{meant}', first: annotation {ids[first]}"
                findings.add("annotation-misspelt", said, annotation_id=int(ids[first]), count=count)


def check_odd(index: int, entry: Any, findings: Findings, categories: Container[int] = ()) -> None:
    """Say what is wrong with an annotation that could not be put into columns."""
    where = f"annotation {short(entry['id'])}" if isinstance(entry, dict) and "id" in entry else f"annotations[{index}]"
    id_ = entry.get("id") if isinstance(entry, dict) else None
    kind, said, remedy = _fault(entry)
    if kind == "annotation-category" and (meant := meant_id(entry["category_id"], categories)) is not None:
        remedy = id_remedy("category_id", meant)
    findings.add(
        kind, f"{where}: {said}", remedy=remedy, annotation_id=id_ if type(id_) is int and abs(id_) < 2**63 else None
    )


def _fault(entry: Any) -> tuple[str, str, str | None]:
    """Kind, text and remedy (None: the kind's) of an odd annotation."""
    if not isinstance(entry, dict):
        return "annotation-keys", f"is {kind_of(entry)}, not an object", None
    for key in ("id", "image_id", "category_id", "bbox"):
        if key not in entry:
            return "annotation-keys", _missing(key, entry), _BOXED if key == "bbox" else None
    for fault in _FAULTS:
        if found := fault(entry):
            return found
    return "annotation-other", f"{short(entry)} is not as COCO has annotations", None


Fault: TypeAlias = tuple[str, str, str | None]


def _id_fault(entry: Mapping[str, Any]) -> Fault | None:
    if type(entry["id"]) is not int or not -(2**63) <= entry["id"] < 2**63:
        return "annotation-id", f"id {short(entry['id'])} must be an integer", None
    return None


def _reference_fault(entry: Mapping[str, Any]) -> Fault | None:
    for key, what in (("image_id", "image"), ("category_id", "category")):
        value = entry[key]
        if what == "image" and type(value) is str:
            continue
        is_whole = type(value) is int or (type(value) is float and value.is_integer())
        if not is_whole or not -(2**63) <= value < 2**63:
            return f"annotation-{what}", f"{key} {short(value)} is the id of no {what}", None
    return None


def _value_fault(entry: Mapping[str, Any]) -> Fault | None:
    if entry.get("ignore"):
        return "annotation-ignore", "key 'ignore' is not supported", None
    crowd = entry.get("iscrowd", 0)
    if not isinstance(crowd, int | float) or crowd not in (0, 1):
        return "annotation-crowd", f"iscrowd {short(crowd)} must be 0 or 1", ""
    box = entry["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all_finite(box):
        said = f"bbox {short(box)} must be four finite numbers [x, y, width, height]"
        return "box", said, _BOXED if box in (None, []) else ""
    keypoints = entry.get("keypoints")
    if keypoints and (not isinstance(keypoints, list) or len(keypoints) % 3 or not all_finite(keypoints)):
        return "annotation-keypoints", f"keypoints {short(keypoints)} must be three finite numbers a point", None
    return None


def _mask_fault(entry: Mapping[str, Any]) -> Fault | None:
    segmentation = entry.get("segmentation")
    if meant_polygons(segmentation):
        return "polygon-pairs", f"segmentation {short(segmentation)} has not its points as [[x, y, x, y, ...]]", None
    if not isinstance(segmentation, list):
        return "mask-kind", f"segmentation is {kind_of(segmentation)}, not a list of polygons or an RLE object", None
    for polygon in segmentation:
        if not isinstance(polygon, list):
            said = f"segmentation holds {short(polygon)}; it must be a list of polygons [[x, y, ...]]"
            return "mask-kind", said, ""
        if len(polygon) % 2 or len(polygon) < 6:
            return "polygon-points", f"a polygon has {len(polygon)} numbers", None
        if not all_finite(polygon):
            return "polygon-numbers", f"a polygon {short(polygon)} holds something that is not a finite number", None
    return None


_FAULTS: tuple[Callable[[Mapping[str, Any]], Fault | None], ...] = (
    _id_fault,
    _reference_fault,
    _value_fault,
    _mask_fault,
)


def _refuse_duplicates(values: Iterable[Any], what: str, kind: str, findings: Findings) -> None:
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        findings.add(kind, f"{len(twice)} {what} occur more than once: {listed(twice)}", count=len(twice))


def _missing(key: str, entry: Mapping[str, Any]) -> str:
    return f"key '{key}' is missing (keys present: {listed(sorted(entry)) or 'none'})"
