"""Mending a JSON: what can be put right without knowing what was meant, in a copy that keeps everything else.

Names are written as the files have them; annotations that hold nothing to find, or name what is not there, are left
out; boxes and areas come from the masks; misspelt keys get their names; ids become whole and unique.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hiera_det.data.coco.agreement import frozen
from hiera_det.data.coco.entries import EXACT, check_categories, is_side
from hiera_det.data.coco.findings import Findings
from hiera_det.data.coco.geometry import drawn_area, is_flat
from hiera_det.data.coco.meant import (
    IMAGE_KEYS,
    KEYS,
    all_finite,
    meant_id,
    meant_key,
    meant_polygons,
    shift_of,
    shift_of_images,
)
from hiera_det.data.coco.names import Folder, leads_outside, locate
from hiera_det.data.coco.pack import MAX_AREA
from hiera_det.data.coco.read import read_json
from hiera_det.data.coco.repair_sizes import mend_sizes
from hiera_det.data.coco.rle import rle_area, rle_extent, run_lengths
from hiera_det.data.coco.schema import StrPath
from hiera_det.data.coco.values import ABSURD, AREA_FACTOR, AREA_SLACK
from hiera_det.data.coco.write import box_polygon
from hiera_det.errors import InputError
from hiera_det.files import write_atomically

__all__ = ["repair_coco_json"]


def repair_coco_json(json_path: StrPath, image_root: StrPath, target: StrPath) -> dict[str, int]:
    """Write a mended copy of a COCO JSON.

    Args:
        json_path: the JSON; its three lists must be there.
        image_root: folder of the images, for their names.
        target: the copy; it appears when it is complete, and must not be the JSON itself.

    Returns:
        what was done, and how often.

    Raises:
        InputError: the JSON cannot be read, ``target`` is the JSON, or it cannot be written.
    """
    if os.path.realpath(target) == os.path.realpath(json_path):
        raise InputError(f"{target}: is the JSON itself; name another file for the mended copy")
    # Python's own lists and dictionaries here: keys that nobody knows have to come out as they went in.
    data = read_json(json_path)
    if not isinstance(data, dict) or not all(
        isinstance(data.get(key), list) and all(isinstance(entry, dict) for entry in data[key])
        for key in ("images", "annotations", "categories")
    ):
        raise InputError(f"{json_path}: needs lists of objects as images, annotations and categories to be mended")
    done: Counter[str] = Counter()
    _rename_keys(data["annotations"], KEYS, done)  # first: what follows goes by the keys' names
    _rename_keys(data["images"], IMAGE_KEYS, done)
    _mend_references(data, done)
    _mend_categories(data, done)
    _mend_images(data, str(image_root), done)
    mend_sizes(data, str(image_root), done)
    _mend_crowd(data["annotations"], done)
    given = len(data["annotations"])
    _mend_annotations(data, done)
    if given and not data["annotations"]:
        why = "; ".join(what for what in done if what.startswith("annotation left out"))
        raise InputError(f"{json_path}: all {given} annotations would be left out ({why}): correct them by hand")
    content = json.dumps(data).encode()
    write_atomically(Path(target), lambda file: file.write(content))
    return {what: count for what, count in done.items() if count}


def _rename_keys(entries: list[dict[str, Any]], keys: Sequence[str], done: Counter[str]) -> None:
    for entry in entries:
        for key in list(entry):
            meant = meant_key(key, entry, keys)
            if meant:
                entry[meant] = entry.pop(key)
                done[f"key '{key}' renamed to '{meant}'"] += 1


def _mend_references(data: dict[str, Any], done: Counter[str]) -> None:
    """Integers as category ids, and references of the same type as what they refer to."""
    for entry in data["categories"] + data["images"]:
        if type(entry.get("id")) is float and entry["id"].is_integer():
            entry["id"] = int(entry["id"])
            done["id written as an integer"] += 1
    texts = [c["id"] for c in data["categories"] if type(c.get("id")) is str]
    listed = {c["id"] for c in data["categories"] if type(c.get("id")) in (int, str)}
    used = {a["category_id"] for a in data["annotations"] if type(a.get("category_id")) is int}
    if all(type(id_) is int for id_ in listed) and shift_of(used, listed):  # left out, the others would be wrong
        raise InputError(
            f"category ids {sorted(used)[0]} to {sorted(used)[-1]} in 'annotations', {min(listed)} to {max(listed)} in "
            "'categories': one counts from another number; correct it, or add the category that is missing"
        )
    images, named = ([e.get(key) for e in data[of]] for key, of in (("id", "images"), ("image_id", "annotations")))
    if shift_of_images(named, images):
        raise InputError(
            f"image ids {min(named)} to {max(named)} in 'annotations', {min(images)} to {max(images)} in 'images': one "
            "counts from another number; correct it, or add the image that is missing"
        )
    free = itertools.filterfalse(listed.__contains__, itertools.count(1))
    whole = {int(text) for text in texts if text.strip().isdecimal() and len(text) < 16} - listed
    keep = len(whole) == len(texts)  # not so for words, or for "3" beside 3
    numbers = {text: int(text) if keep else next(free) for text in texts}
    if len(numbers) < len(texts):  # an id that is there twice: not for us to guess
        numbers = {}
    _mend_references_to(data, "category_id", listed, done)
    for entry, key in [(c, "id") for c in data["categories"]] + [(a, "category_id") for a in data["annotations"]]:
        if type(entry.get(key)) is str and entry[key] in numbers:
            entry[key] = numbers[entry[key]]
            done[f"{'category' if key == 'id' else 'category_id'} numbered"] += 1
    _mend_references_to(data, "image_id", {i["id"] for i in data["images"] if type(i.get("id")) in (int, str)}, done)


def _mend_references_to(data: dict[str, Any], key: str, listed: set[Any], done: Counter[str]) -> None:
    for annotation in data["annotations"]:
        value = annotation.get(key)
        if type(value) in (int, str) and value not in listed and (meant := meant_id(value, listed)) is not None:
            annotation[key] = meant
            done[f"{key} written as the id"] += 1


def _mend_categories(data: dict[str, Any], done: Counter[str]) -> None:
    """Leave out unused categories that have the name of a used one."""
    used = {entry.get("category_id") for entry in data["annotations"] if type(entry.get("category_id")) is int}
    kept = check_categories(data["categories"], used, Findings(""))
    twins = [c for c in data["categories"] if type(c.get("id")) is int and "name" in c and c["id"] not in kept]
    if twins and not any(c["id"] in used for c in twins):
        data["categories"] = [c for c in data["categories"] if c not in twins]
        done["unused category of the same name left out"] += len(twins)


def _mend_images(data: dict[str, Any], root: str, done: Counter[str]) -> None:
    """Names as the files have them, and ids that are exact integers."""
    images = [image for image in data["images"] if isinstance(image.get("file_name"), str)]
    folder = Folder(root)
    missing = [i["file_name"] for i in images if leads_outside(i["file_name"]) or not folder.has(i["file_name"])]
    located = locate(missing, root, are_all=False) if missing else None
    names = located.names if located else {}
    for image in images:
        if new := names.get(image["file_name"]):
            image["file_name"] = new
            done["file_name written as the file has it"] += 1
    ids = [image.get("id") for image in data["images"]]
    exact = all(type(id_) is int and abs(id_) <= EXACT for id_ in ids)
    if not exact and all(type(id_) in (int, str) for id_ in ids) and len(set(ids)) == len(ids):
        numbers = {id_: number for number, id_ in enumerate(ids, start=1)}
        for entry in data["images"]:
            entry["id"] = numbers[entry["id"]]
            done["image numbered"] += 1
        for annotation in data["annotations"]:
            key = annotation.get("image_id")
            annotation["image_id"] = numbers.get(key, key) if type(key) in (int, str) else key


def _mend_annotations(data: dict[str, Any], done: Counter[str]) -> None:
    images = {i["id"]: i for i in data["images"] if type(i.get("id")) in (int, str)}
    categories = {c["id"] for c in data["categories"] if type(c.get("id")) is int}
    for annotation in data["annotations"]:
        _mend_mask(annotation, done)
        _mend_box(annotation, done)
    # Where most have masks one without is a slip; where few have, the data set is one of boxes.
    have_masks = [bool(a.get("segmentation")) for a in data["annotations"] if not a.get("iscrowd")]
    mostly_masks = sum(have_masks) > len(have_masks) / 2
    kept = []
    for annotation in data["annotations"]:
        why = _why_left_out(annotation, images, categories, mostly_masks)
        if why:
            done[f"annotation left out: {why}"] += 1
        else:
            _mend_values(annotation, mostly_masks, done)
            kept.append(annotation)
    kept = _without_repeated(kept, done)
    ids = [annotation.get("id") for annotation in kept]
    # 0 too: pycocotools takes it for "not matched".
    sound = all(type(id_) is int and id_ != 0 and abs(id_) < 2**63 for id_ in ids)
    if not sound or len(set(ids)) < len(ids):
        for number, annotation in enumerate(kept, start=1):
            annotation["id"] = number
        done["annotation numbered"] += len(kept)
    data["annotations"] = kept


def _without_repeated(annotations: list[dict[str, Any]], done: Counter[str]) -> list[dict[str, Any]]:
    """Of annotations with the same image, category, box and mask the first."""
    keys = ("image_id", "category_id", "bbox", "segmentation", "iscrowd", "keypoints")
    first: dict[Any, dict[str, Any]] = {}
    for annotation in annotations:
        first.setdefault(frozen([annotation.get(key) or None for key in keys]), annotation)
    if len(first) < len(annotations):
        done["annotation left out: repeats another one"] += len(annotations) - len(first)
    return list(first.values())


def _mend_crowd(annotations: list[dict[str, Any]], done: Counter[str]) -> None:
    """Objects that CVAT has drawn with a brush are no crowd regions, nor are all annotations of a data set."""
    crowd = [annotation for annotation in annotations if annotation.get("iscrowd") == 1]
    if len(crowd) < len(annotations):
        marked = [(annotation, annotation.get("attributes")) for annotation in crowd]
        crowd = [a for a, own in marked if isinstance(own, dict) and not own.get("is_crowd")]
        crowd = [annotation for annotation in crowd if isinstance(annotation.get("segmentation"), dict)]
    for annotation in crowd:
        annotation["iscrowd"] = 0
        done["iscrowd set to 0"] += 1


def _mend_box(annotation: dict[str, Any], done: Counter[str]) -> None:
    """Fill in a box that is not there, from the mask or as one without area."""
    if annotation.get("bbox") not in (None, []):
        return
    annotation["bbox"] = _box_of(annotation.get("segmentation")) or [0, 0, 0, 0]
    done["box taken of the mask"] += annotation["bbox"][2] > 0


def _box_of(mask: Any) -> list[float] | None:
    """The box around a mask's polygons or runs; None where there is no area."""
    if isinstance(mask, dict):
        runs, size = run_lengths(mask.get("counts")), mask.get("size")
        if runs is None or not isinstance(size, list) or len(size) != 2 or not all(map(is_side, size)):
            return None
        left, top, right, bottom = map(float, rle_extent(runs, size[0])) if rle_area(runs) else (0.0, 0.0, 0.0, 0.0)
    elif _mask_area(mask):
        values = [value for polygon in mask for value in polygon]
        (left, top), (right, bottom) = (min(values[0::2]), min(values[1::2])), (max(values[0::2]), max(values[1::2]))
    else:
        return None
    return [left, top, right - left, bottom - top] if right > left and bottom > top else None


def _mend_mask(annotation: dict[str, Any], done: Counter[str]) -> None:
    """Write polygons as COCO has them, and take out those of fewer than three points."""
    if polygons := meant_polygons(annotation.get("segmentation")):
        annotation["segmentation"] = polygons
        done["polygon's points written as [x, y, x, y, ...]"] += len(polygons)
    mask = annotation.get("segmentation")
    if not isinstance(mask, list):
        return
    box = annotation.get("bbox")
    if len(mask) == 1 and _is_its_box(mask[0], box):
        annotation["segmentation"] = [box_polygon(box)]
        done["four numbers written as the box's polygon"] += 1
        return
    # They cover no pixel; detectron2's loader drops them too.
    kept = [p for p in mask if not isinstance(p, list) or not all_finite(p) or (len(p) >= 6 and len(p) % 2 == 0)]
    if len(kept) < len(mask):
        annotation["segmentation"] = kept
        done["polygon of fewer than three points taken out"] += len(mask) - len(kept)


def _is_its_box(polygon: Any, box: Any) -> bool:
    """Whether four numbers are the box's corners, as labelme's script writes rectangles, or the box itself."""
    if not all(isinstance(values, list) and len(values) == 4 and all_finite(values) for values in (polygon, box)):
        return False
    x, y, width, height = box
    return any(np.abs(np.subtract(polygon, form)).max() <= 1 for form in (box, [x, y, x + width, y + height]))


def _why_left_out(
    annotation: dict[str, Any], images: dict[Any, dict[str, Any]], categories: set[int], mostly_masks: bool
) -> str | None:
    """Why nothing can be done for an annotation; None if it is kept."""
    image_id, category_id, box = (annotation.get(key) for key in ("image_id", "category_id", "bbox"))
    if type(image_id) not in (int, float, str) or image_id not in images:
        return "unknown image"
    if type(category_id) not in (int, float) or category_id not in categories:
        return "unknown category"
    if not isinstance(box, list) or len(box) != 4 or not all_finite(box):
        return None  # not for us to guess: it stays, and the check says it
    mask = annotation.get("segmentation")
    if not mask and (box[2] <= 0 or box[3] <= 0):
        return "no area and no mask"
    if not mask and mostly_masks and not annotation.get("iscrowd"):
        return "no mask among masks"
    sides = tuple(images[image_id].get(key) for key in ("width", "height"))
    if not all(type(side) is int for side in sides):
        return None
    if _is_absurd([*box[:2], box[0] + box[2], box[1] + box[3]], sides):
        return "box far outside the image"
    if mask and isinstance(mask, list) and all(isinstance(p, list) and all_finite(p) for p in mask):
        return _fault_of_polygons([value for polygon in mask for value in polygon], mask, sides)
    return None


def _fault_of_polygons(values: list[float], mask: list[list[float]], sides: tuple[Any, ...]) -> str | None:
    if _is_absurd(values, sides):
        return "polygon far outside the image"
    xs, ys = values[0::2], values[1::2]
    if max(xs) < 0 or max(ys) < 0 or min(xs) > sides[0] or min(ys) > sides[1]:
        return "polygon outside the image"
    if all(is_flat(np.array(polygon, float)) for polygon in mask):
        return "polygon without area"
    return None


def _is_absurd(values: list[float], sides: tuple[Any, ...]) -> bool:
    return any(
        not -ABSURD * sides[place % 2] <= value <= (ABSURD + 1) * sides[place % 2] for place, value in enumerate(values)
    )


def _mend_values(annotation: dict[str, Any], mostly_masks: bool, done: Counter[str]) -> None:
    """Boxes and areas of masks, masks of crowd regions, and what pycocotools cannot do without."""
    if "iscrowd" not in annotation:
        annotation["iscrowd"] = 0
        done["iscrowd written"] += 1
    box, mask = annotation.get("bbox"), annotation.get("segmentation")
    if not isinstance(box, list) or len(box) != 4 or not all_finite(box):
        return
    if not mask and annotation.get("iscrowd") and mostly_masks:
        mask = annotation["segmentation"] = [box_polygon(box)]
        done["crowd region given its box as mask"] += 1
    area = _mask_area(mask)
    if (box[2] <= 0 or box[3] <= 0) and (own_box := _box_of(mask)):
        annotation["bbox"] = box = own_box
        done["box taken of the mask"] += 1
    own, right = annotation.get("area"), area or float(box[2] * box[3])
    own = float(own) if isinstance(own, int | float) and all_finite([own]) and 0 <= own <= MAX_AREA else math.nan
    less, more = min(own, right), max(own, right)
    if math.isnan(own) or (area and more - less > AREA_SLACK and more > AREA_FACTOR * less):
        annotation["area"] = right
        done["area written"] += 1


def _mask_area(mask: Any) -> float:
    """Pixels of a mask; 0 where there is none, or none that can be read."""
    if isinstance(mask, dict):
        runs = run_lengths(mask.get("counts"))
        return 0.0 if runs is None else float(rle_area(runs))
    if not mask or not isinstance(mask, list) or not all(isinstance(p, list) and all_finite(p) for p in mask):
        return 0.0
    return drawn_area([np.array(polygon, float) for polygon in mask])
