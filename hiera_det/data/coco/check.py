"""Checks of a COCO-format JSON before anything is trained or evaluated on it.

A mistake in a data set otherwise shows up as an assertion inside a data-loading worker hours later, or never: an
annotation that is dropped, classes that are mixed up, an image that is read with another size. `check_coco_json` reads
the JSON once, looks at every image file and its header, and either raises `InputError` (one line naming file, key and
way out) or returns a `CocoSummary`. Oddities one can train with are told in `CocoSummary.notes`.

Standard library only; Pillow, where it is installed, reads the image headers. Boxes are COCO's XYWH in pixels.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hiera_det.errors import InputError

__all__ = ["CocoSummary", "check_coco_json", "complete_coco_json", "read_coco_json", "same_classes"]

StrPath = str | os.PathLike[str]

#: Of more images than this, an evenly spaced sample of this many headers is read.
MAX_HEADERS = 2000
#: How many culprits a message lists before it only counts.
LISTED = 3
#: EXIF tag of the orientation; from 5 on, showing the photograph upright swaps width and height.
EXIF_ORIENTATION, EXIF_FIRST_SWAPPED = 0x0112, 5
#: Share of boxes beyond the right or lower border from which on XYXY boxes are suspected.
SUSPECT_XYXY = 0.5

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 200  # a file name in full

_KIND = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", int: "a number", float: "a number"}


@dataclass(frozen=True)
class CocoSummary:
    """What a checked JSON holds; small, picklable, the same in every process.

    ``class_names``, ``category_ids`` and ``instance_counts`` run in ascending category id, the order in which
    detectors number the classes from 0. ``instance_counts`` leaves out crowd regions. ``mask_format`` is "polygon",
    "bitmask" (an RLE mask occurs outside crowd regions) or None (an annotation has no ``segmentation``).
    ``gaps`` names what pycocotools would stumble over and `complete_coco_json` fills in.
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


def read_coco_json(json_path: StrPath) -> dict[str, Any]:
    """Read a JSON file (UTF-8, with or without byte order mark) whose top level is an object.

    Raises:
        InputError: the file is missing, a folder, unreadable, not UTF-8, not JSON, or not an object.
    """
    path = Path(json_path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the COCO JSON file itself")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        data = json.loads(text)
    except FileNotFoundError:
        raise InputError(f"{path}: no such JSON file; {_nearest_folder(path)}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not JSON: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except RecursionError:
        raise InputError(f"{path}: not a COCO JSON: nested too deeply") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        reason = f"{error.msg} at {where}" if text.strip() else "the file is empty"
        raise InputError(f"{path}: not JSON: {reason}; was it cut off while being copied?") from None
    if not isinstance(data, dict):
        raise InputError(
            f"{path}: top level is {_kind(data)}, not an object with the keys images, annotations, categories"
        )
    return data


def check_coco_json(
    json_path: StrPath,
    image_root: StrPath,
    *,
    require_annotations: bool = True,
    check_files: bool = True,
) -> CocoSummary:
    """Check a COCO JSON and its images; return what it holds.

    Args:
        json_path: the COCO JSON (instances: boxes, with or without masks).
        image_root: folder that the JSON's ``file_name`` entries are relative to.
        require_annotations: refuse a JSON without usable annotations (training and evaluation need them).
        check_files: look at every image file and its header too; False for a second look, such as in a worker
            process whose parent has checked already.

    Raises:
        InputError: the first mistake found; one line.
    """
    path, root = str(json_path), str(image_root)
    data = read_coco_json(path)
    lists = {key: _list_of_objects(data, key, path) for key in ("images", "annotations", "categories")}
    if not os.path.isdir(root):
        raise InputError(f"{root}: no such image folder (for {path}); {_nearest_folder(Path(root))}")
    names = _check_categories(lists["categories"], path)
    images = _check_images(lists["images"], path)
    annotations = _Annotations(path, images, names, lists["annotations"])
    if require_annotations and not annotations.instances.total():
        have = "only crowd annotations" if lists["annotations"] else "no annotations ('annotations' is empty)"
        raise InputError(f"{path}: {have}; training and evaluation need at least one annotated object")
    notes = annotations.notes()
    if check_files:
        _check_image_files(images.values(), path, root)
        notes += _check_headers(list(images.values()), path, root)
    return CocoSummary(
        path=path,
        image_root=root,
        class_names=tuple(names[i] for i in sorted(names)),
        category_ids=tuple(sorted(names)),
        instance_counts=tuple(annotations.instances[i] for i in sorted(names)),
        num_images=len(images),
        num_annotations=len(lists["annotations"]),
        num_negatives=len(images) - len(annotations.image_ids),
        num_without_mask=annotations.num_without_mask,
        mask_format=annotations.mask_format,
        gaps=_gaps(data, path),
        notes=tuple(notes),
    )


def same_classes(train: CocoSummary, val: CocoSummary) -> None:
    """Refuse two JSONs that number their classes differently.

    Each JSON numbers its classes by its own ascending category ids, so a category that is missing from one, or
    sits elsewhere, would silently shift all later classes and spoil the evaluation.

    Raises:
        InputError: the names in ascending id order differ; the message says where.
    """
    if train.class_names == val.class_names:
        return
    only_train = [name for name in train.class_names if name not in val.class_names]
    only_val = [name for name in val.class_names if name not in train.class_names]
    if only_train or only_val:
        parts = [f"only in {s.path}: {_listed(n)}" for s, n in ((train, only_train), (val, only_val)) if n]
        difference = "; ".join(parts)
        if {n.strip().casefold() for n in only_train} & {n.strip().casefold() for n in only_val}:
            difference += " (some differ only in upper and lower case or spaces)"
    else:
        index = next(
            i for i, pair in enumerate(zip(train.class_names, val.class_names, strict=True)) if pair[0] != pair[1]
        )
        difference = (
            f"same names in another order: class {index} is {_short(train.class_names[index])} "
            f"(id {train.category_ids[index]}) in {train.path} but {_short(val.class_names[index])} "
            f"(id {val.category_ids[index]}) in {val.path}"
        )
    raise InputError(f"categories of train and val JSON differ: {difference}; give both the same 'categories' list")


def complete_coco_json(json_path: StrPath, target: StrPath) -> None:
    """Write a copy of a checked JSON with the gaps filled that pycocotools stumbles over.

    ``info`` and ``iscrowd`` get their defaults, ``area`` comes from the mask (or the box where there is none), and
    annotations are numbered from 1 when one has id 0, which pycocotools takes for "not matched". The copy appears
    under its final name only when it is complete.
    """
    data = read_coco_json(json_path)
    data.setdefault("info", {})
    annotations = data.setdefault("annotations", [])
    renumber = any(annotation["id"] == 0 for annotation in annotations)
    for number, annotation in enumerate(annotations, start=1):
        annotation.setdefault("iscrowd", 0)
        if "area" not in annotation:
            annotation["area"] = _area(annotation)
        if renumber:
            annotation["id"] = number
    target = Path(target)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(data), encoding="utf-8")
    partial.replace(target)


# The lists and their entries


def _list_of_objects(data: Mapping[str, Any], key: str, path: str) -> list[dict[str, Any]]:
    if key not in data:
        has = _listed(sorted(data)) if data else "none"
        raise InputError(f"{path}: key '{key}' is missing (keys present: {has}); is this a COCO instances JSON?")
    entries = data[key]
    if not isinstance(entries, list):
        raise InputError(f"{path}: '{key}' is {_kind(entries)}, not a list")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise InputError(f"{path}: {key}[{index}] is {_kind(entry)}, not an object")
    if key != "annotations" and not entries:
        raise InputError(
            f"{path}: '{key}' is empty; a data set needs at least one {'image' if key == 'images' else 'category'}"
        )
    return entries


def _check_categories(categories: list[dict[str, Any]], path: str) -> dict[int, str]:
    """Names by category id."""
    for index, category in enumerate(categories):
        _require_keys(category, ("id", "name"), f"{path}: categories[{index}]")
        if type(category["id"]) is not int:
            raise InputError(f"{path}: categories[{index}]: id {_short(category['id'])} must be an integer")
        if not isinstance(category["name"], str) or not category["name"].strip():
            raise InputError(f"{path}: category {category['id']}: name {_short(category['name'])} must be a text")
    _refuse_duplicates((category["id"] for category in categories), "category id", path)
    _refuse_duplicates((category["name"] for category in categories), "category name", path)
    return {category["id"]: category["name"] for category in categories}


def _check_images(images: list[dict[str, Any]], path: str) -> dict[int | str, dict[str, Any]]:
    """Image entries by id."""
    for index, image in enumerate(images):
        _require_keys(image, ("id", "file_name", "width", "height"), f"{path}: images[{index}]")
        if type(image["id"]) not in (int, str):
            raise InputError(f"{path}: images[{index}]: id {_short(image['id'])} must be an integer or a text")
        if not isinstance(image["file_name"], str) or not image["file_name"]:
            raise InputError(
                f"{path}: image {_short(image['id'])}: file_name {_short(image['file_name'])} must be a text"
            )
        for key in ("width", "height"):
            if type(image[key]) is not int or image[key] <= 0:
                raise InputError(
                    f"{path}: image {_short(image['id'])} ({image['file_name']!r}): {key} {_short(image[key])} "
                    "must be a positive integer, in pixels"
                )
    kinds = Counter(type(image["id"]).__name__ for image in images)
    if len(kinds) > 1:
        raise InputError(f"{path}: image ids are mixed ({kinds['int']} integers, {kinds['str']} texts); use one kind")
    _refuse_duplicates((image["id"] for image in images), "image id", path)
    return {image["id"]: image for image in images}


class _Annotations:
    """Checks a JSON's annotations one by one and counts what they hold."""

    def __init__(
        self,
        path: str,
        images: Mapping[int | str, Mapping[str, Any]],
        names: Mapping[int, str],
        annotations: list[dict[str, Any]],
    ) -> None:
        self.path, self.images, self.names = path, images, names
        self.instances: Counter[int] = Counter()
        self.image_ids: set[int | str] = set()
        self.num_crowd = self.num_empty = self.num_outside = 0
        self.num_without_mask = self.num_rle = 0
        for index, annotation in enumerate(annotations):
            _require_keys(
                annotation, ("id", "image_id", "category_id", "bbox"), _annotation_name(path, index, annotation)
            )
            if type(annotation["id"]) is not int:
                raise InputError(f"{path}: annotations[{index}]: id {_short(annotation['id'])} must be an integer")
        _refuse_duplicates((annotation["id"] for annotation in annotations), "annotation id", path)
        self._refuse_unknown(annotations, "image_id", images, "image")
        self._refuse_unknown(annotations, "category_id", names, "category")
        for annotation in annotations:
            self._check(annotation)

    @property
    def mask_format(self) -> str | None:
        if self.num_without_mask or not self.instances:
            return None
        return "bitmask" if self.num_rle else "polygon"

    def notes(self) -> list[str]:
        """One line for each oddity that one can train with."""
        total = self.instances.total() + self.num_crowd
        notes = []
        negatives = len(self.images) - len(self.image_ids)
        if negatives:
            notes.append(f"{self.path}: {negatives} of {len(self.images)} images have no annotation (negatives)")
        if self.num_crowd:
            notes.append(f"{self.path}: {self.num_crowd} crowd regions (iscrowd 1) are not trained on")
        if self.num_empty:
            notes.append(
                f"{self.path}: {self.num_empty} of {total} boxes have no area (width or height <= 0) "
                "and are dropped in training"
            )
        if self.num_outside:
            hint = ""
            if self.num_outside > SUSPECT_XYXY * total:
                hint = ": is this [x1, y1, x2, y2]? COCO boxes are [x, y, width, height]"
            percent = math.ceil(100 * self.num_outside / total)
            notes.append(f"{self.path}: {self.num_outside} of {total} boxes ({percent}%) leave their image{hint}")
        unused = [self.names[i] for i in sorted(self.names) if not self.instances[i]]
        if unused and self.instances:
            notes.append(f"{self.path}: categories without any annotation: {_listed(unused)}")
        if self.instances and 0 < self.num_without_mask < self.instances.total():
            notes.append(
                f"{self.path}: {self.num_without_mask} of {self.instances.total()} annotations have no segmentation"
            )
        return notes

    def _refuse_unknown(
        self, annotations: list[dict[str, Any]], key: str, known: Mapping[Any, object], what: str
    ) -> None:
        unknown = [a for a in annotations if isinstance(a[key], (bool, list, dict)) or a[key] not in known]
        if not unknown:
            return
        first = unknown[0]
        hint = f"add the {what} or remove the annotations"
        if _other_type(first[key]) in known:
            hint = f"write {key} as {_short(_other_type(first[key]))}, the same kind as in '{_plural(what)}'"
        raise InputError(
            f"{self.path}: {len(unknown)} annotations name an unknown {what}, first: annotation {first['id']} with "
            f"{key} {_short(first[key])}; {hint}"
        )

    def _check(self, annotation: dict[str, Any]) -> None:
        where = f"{self.path}: annotation {annotation['id']}"
        image = self.images[annotation["image_id"]]
        if annotation.get("ignore"):
            raise InputError(f"{where}: key 'ignore' is not supported; use 'iscrowd': 1 or remove the annotation")
        if annotation.get("iscrowd", 0) not in (0, 1):
            raise InputError(f"{where}: iscrowd {_short(annotation['iscrowd'])} must be 0 or 1")
        self.image_ids.add(annotation["image_id"])
        self._check_box(annotation["bbox"], image, where)
        segmentation = annotation.get("segmentation")
        if segmentation:
            _check_segmentation(segmentation, image, where)
        if annotation.get("iscrowd", 0):
            self.num_crowd += 1
            return
        self.instances[annotation["category_id"]] += 1
        self.num_without_mask += not segmentation
        self.num_rle += isinstance(segmentation, dict) and bool(segmentation)

    def _check_box(self, box: Any, image: Mapping[str, Any], where: str) -> None:
        if not isinstance(box, list) or len(box) != 4 or not _all_finite(box):
            raise InputError(f"{where}: bbox {_short(box)} must be four finite numbers [x, y, width, height]")
        x, y, width, height = box
        self.num_empty += width <= 0 or height <= 0
        # One pixel of slack: boxes are often rounded outwards.
        self.num_outside += min(x, y) < -1 or x + width > image["width"] + 1 or y + height > image["height"] + 1


# Masks


def _check_segmentation(segmentation: Any, image: Mapping[str, Any], where: str) -> None:
    if isinstance(segmentation, dict):
        _check_rle(segmentation, image, where)
        return
    if not isinstance(segmentation, list):
        raise InputError(f"{where}: segmentation is {_kind(segmentation)}, not a list of polygons or an RLE object")
    for polygon in segmentation:
        if not isinstance(polygon, list):
            raise InputError(
                f"{where}: segmentation holds {_short(polygon)}; it must be a list of polygons [[x, y, ...]]"
            )
        if len(polygon) % 2 or len(polygon) < 6:
            raise InputError(
                f"{where}: a polygon has {len(polygon)} numbers; it needs at least three points "
                "[x1, y1, x2, y2, x3, y3, ...]"
            )
        if not _all_finite(polygon):
            raise InputError(f"{where}: a polygon {_short(polygon)} holds something that is not a finite number")


def _check_rle(rle: Mapping[str, Any], image: Mapping[str, Any], where: str) -> None:
    _require_keys(rle, ("size", "counts"), f"{where}: RLE segmentation")
    expected = [image["height"], image["width"]]
    if rle["size"] != expected:
        raise InputError(f"{where}: RLE size {_short(rle['size'])} differs from the image's [height, width] {expected}")
    counts = _rle_counts(rle["counts"])
    if counts is None:
        raise InputError(
            f"{where}: RLE counts {_short(rle['counts'])} must be a list of integers >= 0 or COCO's text form"
        )
    if sum(counts) != image["height"] * image["width"]:
        raise InputError(
            f"{where}: RLE counts sum to {sum(counts)}, not to height x width = {image['height'] * image['width']}"
        )


def _rle_counts(counts: Any) -> list[int] | None:
    """Run lengths of an RLE, alternating background and object; None where they cannot be read."""
    if isinstance(counts, str):
        counts = _decode_counts(counts)
    if isinstance(counts, list) and all(type(count) is int and count >= 0 for count in counts):
        return counts
    return None


def _decode_counts(text: str) -> list[int] | None:
    """Run lengths from COCO's text form (pycocotools ``rleFrString``); None if it ends amid a number.

    A character holds 5 bits, the lowest first, bit 0x20 says that more follow, the last one's 0x10 is the sign; from
    the fourth number on, the difference to the number two before is stored.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return None if shift else counts


def _area(annotation: Mapping[str, Any]) -> float:
    """Area in pixels of an annotation's mask, of its box where it has no mask."""
    segmentation = annotation.get("segmentation")
    if not segmentation:
        return annotation["bbox"][2] * annotation["bbox"][3]
    if isinstance(segmentation, dict):
        return sum((_rle_counts(segmentation["counts"]) or [])[1::2])
    return sum(_polygon_area(polygon) for polygon in segmentation)


def _polygon_area(polygon: Sequence[float]) -> float:
    xs, ys = polygon[0::2], polygon[1::2]
    return abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))) / 2


# Image files


def _check_image_files(images: Iterable[Mapping[str, Any]], path: str, root: str) -> None:
    names = [image["file_name"] for image in images]
    base = os.path.abspath(root)
    for name in names:
        if os.path.commonpath([base, os.path.abspath(os.path.join(base, name))]) != base:
            raise InputError(f"{path}: file_name {name!r} lies outside the image folder {root}; make it relative to it")
    missing = [name for name in names if not os.path.isfile(os.path.join(root, name))]
    if missing:
        raise InputError(
            f"{path}: {len(missing)} of {len(names)} images are not in {root}: {_listed(missing)}; "
            f"{_where_instead(missing[0], root)}"
        )


def _where_instead(name: str, root: str) -> str:
    """Advice for an image that is not where the JSON says: looks in the likely places around the image folder."""
    slashed = name.replace("\\", "/")
    if slashed != name and os.path.isfile(os.path.join(root, slashed)):
        return "file_name has backslashes: write '/' instead"
    parents = Path(os.path.abspath(root)).parents
    for parent in list(parents)[: slashed.count("/")]:
        if (parent / slashed).is_file():
            return f"it is there from {parent}: give that as the image folder"
    basename = os.path.basename(slashed)
    if basename != slashed and os.path.isfile(os.path.join(root, basename)):
        return f"{basename!r} is there: remove the prefix {slashed[: -len(basename)]!r} from file_name"
    for folder in sorted(entry.path for entry in os.scandir(root) if entry.is_dir()):
        if os.path.isfile(os.path.join(folder, slashed)):
            return f"it is in {folder}: give that as the image folder"
    return "copy them there, or give the folder that file_name is relative to"


def _check_headers(images: list[Mapping[str, Any]], path: str, root: str) -> list[str]:
    """Compare the sizes in the image headers with the JSON's; at most `MAX_HEADERS` of them, evenly spaced."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        return [f"{path}: image sizes not compared with the files: Pillow is not installed"]
    sample = images if len(images) <= MAX_HEADERS else images[:: math.ceil(len(images) / MAX_HEADERS)]
    wrong: list[str] = []
    rotated = 0
    for image in sample:
        name, size = image["file_name"], (image["width"], image["height"])
        try:
            with Image.open(os.path.join(root, name)) as header:
                stored, mode = header.size, header.mode
                swapped = header.getexif().get(EXIF_ORIENTATION, 1) >= EXIF_FIRST_SWAPPED
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
            reason = "not an image that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
            raise InputError(f"{os.path.join(root, name)}: cannot be read as an image ({reason}); replace it") from None
        if mode.startswith(("I", "F")):
            raise InputError(
                f"{os.path.join(root, name)}: more than 8 bits per pixel (mode {mode}), which reading as RGB would "
                "clip; convert it to 8 bits"
            )
        upright = stored[::-1] if swapped else stored
        if upright != size:
            wrong.append(f"{name} is {upright[0]}x{upright[1]}, JSON says {size[0]}x{size[1]}")
            rotated += upright == size[::-1]
    if not wrong:
        return []
    advice = "write the files' sizes into the JSON and scale its boxes with them"
    if rotated == len(wrong):
        advice = "the JSON has them unrotated: remove the EXIF orientation or swap width and height with the boxes"
    raise InputError(
        f"{path}: {len(wrong)} of {len(sample)} images differ in size (width x height, EXIF orientation applied): "
        f"{'; '.join(wrong[:LISTED])}; {advice}"
    )


# Small helpers


def _gaps(data: Mapping[str, Any], path: str) -> tuple[str, ...]:
    with open(path, "rb") as file:
        bom = file.read(3) == b"\xef\xbb\xbf"
    annotations = data["annotations"]
    found = {
        "byte order mark": bom,
        "no info": "info" not in data,
        "no iscrowd": any("iscrowd" not in annotation for annotation in annotations),
        "no area": any("area" not in annotation for annotation in annotations),
        "annotation id 0": any(annotation["id"] == 0 for annotation in annotations),
    }
    return tuple(gap for gap, present in found.items() if present)


def _require_keys(entry: Mapping[str, Any], keys: Iterable[str], where: str) -> None:
    missing = [key for key in keys if key not in entry]
    if missing:
        raise InputError(f"{where}: key '{missing[0]}' is missing (keys present: {_listed(sorted(entry)) or 'none'})")


def _refuse_duplicates(values: Iterable[Any], what: str, path: str) -> None:
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise InputError(
            f"{path}: {len(twice)} {_plural(what)} occur more than once: {_listed(twice)}; make them unique"
        )


def _annotation_name(path: str, index: int, annotation: Mapping[str, Any]) -> str:
    return f"{path}: annotation {_short(annotation['id'])}" if "id" in annotation else f"{path}: annotations[{index}]"


def _other_type(value: Any) -> int | str | None:
    """The same id as a text, or as a number: "3" for 3, 3 for "3"."""
    if type(value) is int:
        return str(value)
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    return None


def _all_finite(numbers: Iterable[Any]) -> bool:
    return all(type(number) in (int, float) and math.isfinite(number) for number in numbers)


def _nearest_folder(path: Path) -> str:
    folder = next((parent for parent in path.absolute().parents if parent.is_dir()), Path("/"))
    if folder != path.absolute().parent:
        return f"its folder does not exist either (nearest that does: {folder})"
    return f"check the spelling; its folder is {folder}"


def _plural(word: str) -> str:
    return f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"


def _kind(value: Any) -> str:
    return "null" if value is None else _KIND.get(type(value), type(value).__name__)


def _short(value: Any) -> str:
    return _REPR.repr(value)


def _listed(values: Sequence[Any]) -> str:
    more = f", ... ({len(values)} in all)" if len(values) > LISTED else ""
    return ", ".join(_short(value) for value in values[:LISTED]) + more
