"""Folders of data sets as they come from Roboflow, YOLO, VOC, labelme or COCO: their parts found, and made COCO's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hiera_det.data.coco.merge import Source
from hiera_det.data.convert.build import read_class_names
from hiera_det.data.convert.detect import convert_dataset, detect_format
from hiera_det.errors import InputError
from hiera_det.files import make_folder

__all__ = ["Layout", "find_layout"]

#: Words for the part that is evaluated on.
VAL = ("valid", "val", "validation")
#: Roboflow's name for the JSON of a folder of images.
ROBOFLOW = "_annotations.coco.json"


class Layout(NamedTuple):
    """What a folder holds.

    Attributes:
        kind: its layout, for people.
        train: what to train on.
        val: what to evaluate on; None where the folder has no such part.
    """

    kind: str
    train: Source
    val: Source | None

    def __str__(self) -> str:
        """One line."""
        parts = f"train {self.train.json}, " + (f"val {self.val.json}" if self.val else "nothing to evaluate on")
        return f"{self.kind}: {parts}"


def find_layout(folder: str, target: str) -> Layout:
    """Recognise a data set's folder, and convert what is no COCO JSON.

    Args:
        folder: of the data set.
        target: folder for the JSONs that are made.

    Raises:
        InputError: it is no folder, of no known layout, or something in it cannot be converted.
    """
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: no such folder; give the folder of a data set")
    for find in (_roboflow_coco, _coco):
        if found := find(folder):
            return found
    kind = detect_format(folder if _has_yaml(folder) or not _part(folder, "train") else os.path.join(folder, "train"))
    make: dict[str, Callable[[str, str], Layout]] = {"yolo": _yolo, "voc": _voc, "labelme": _labelme}
    return make[kind](folder, target)


def _part(folder: str, *names: str) -> str:
    """The first of these names that is a folder there, or ""."""
    return next((name for name in names if os.path.isdir(os.path.join(folder, name))), "")


def _has_yaml(folder: str) -> bool:
    return any(os.path.isfile(os.path.join(folder, name)) for name in ("data.yaml", "dataset.yaml", "data.yml"))


def _roboflow_coco(folder: str) -> Layout | None:
    """``train/_annotations.coco.json`` beside its images, and the same in ``valid``."""

    def source(*names: str) -> Source | None:
        part = os.path.join(folder, _part(folder, *names))
        json = os.path.join(part, ROBOFLOW)
        return Source(json, part) if part != os.path.join(folder, "") and os.path.isfile(json) else None

    train = source("train")
    return Layout("Roboflow's COCO", train, source(*VAL)) if train else None


def _coco(folder: str) -> Layout | None:
    """``annotations/*train*.json`` with ``images/train`` or ``train2017``, as COCO itself and many after it."""
    jsons = sorted((Path(folder) / "annotations").glob("*.json"))

    def source(*words: str) -> Source | None:
        stems = {path: path.stem.removeprefix("instances_") for path in jsons}
        json = next((path for word in words for path, stem in stems.items() if stem.startswith(word)), None)
        if json is None:
            return None
        places = (os.path.join("images", stems[json]), stems[json], "images")
        return Source(str(json), os.path.join(folder, _part(folder, *places)))

    train = source("train")
    return Layout("COCO", train, source(*VAL)) if train else None


def _yolo(folder: str, target: str) -> Layout:
    train = _converted(folder, target, "train", split="train")
    try:
        val = _converted(folder, target, "val", split="val", classes=train.json)
    except InputError as error:
        if "no images of" not in str(error):
            raise
        val = None
    return Layout("YOLO's, converted", train, val)


def _voc(folder: str, target: str) -> Layout:
    lists = os.path.join(folder, "ImageSets", "Main")
    if os.path.isfile(os.path.join(lists, "train.txt")):
        train = _converted(folder, target, "train", split="train")
        has_val = os.path.isfile(os.path.join(lists, "val.txt"))
        val = _converted(folder, target, "val", split="val", classes=train.json) if has_val else None
        return Layout("VOC's, converted", train, val)
    return _by_folders(folder, target, "VOC's, converted")


def _labelme(folder: str, target: str) -> Layout:
    return _by_folders(folder, target, "labelme's, converted")


def _by_folders(folder: str, target: str, kind: str) -> Layout:
    """Of folders ``train`` and ``valid`` where there are such, else the whole to train on."""
    part, held_out = _part(folder, "train"), _part(folder, *VAL)
    train = _converted(os.path.join(folder, part), target, "train")
    val = _converted(os.path.join(folder, held_out), target, "val", classes=train.json) if held_out else None
    return Layout(kind, train, val)


def _converted(source: str, target: str, name: str, split: str | None = None, classes: str | None = None) -> Source:
    """A part as a JSON in the target folder."""
    make_folder(target, "the folder of the data")
    json = os.path.join(target, f"{name}.json")
    if classes:
        read_class_names(classes)
    made = convert_dataset(source, json, split=split, classes=classes)
    return Source(json, made.image_root)
