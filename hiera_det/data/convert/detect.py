"""Which format a data set is of, and its conversion."""

from __future__ import annotations

import os
from typing import Literal

from hiera_det.data.convert.build import CocoBuilder
from hiera_det.data.convert.labelme import convert_labelme
from hiera_det.data.convert.voc import convert_voc
from hiera_det.data.convert.yolo import convert_yolo
from hiera_det.errors import InputError

__all__ = ["FORMATS", "Format", "convert_dataset", "detect_format"]

Format = Literal["yolo", "voc", "labelme"]
FORMATS: tuple[Format, ...] = ("yolo", "voc", "labelme")


def convert_dataset(
    source: str, target: str, *, format: Format | None = None, split: str | None = None, classes: str | None = None
) -> CocoBuilder:
    """Write a data set of another format as a COCO JSON.

    Args:
        source: the data set's folder; for YOLO its data.yaml too.
        target: the JSON; it appears when it is complete.
        format: by default it is recognised.
        split: which part: YOLO's "train" (the default), "val" or "test", or a list of VOC's; None for all.
        classes: a file of class names, one a line, or a COCO JSON, which fixes their order.

    Returns:
        what was written; its ``image_root`` is the image folder to give with the JSON.

    Raises:
        InputError: names the file, and the line where there is one.
    """
    if not os.path.exists(source):
        raise InputError(f"{source}: no such file or folder")
    kind = format or detect_format(source)
    if kind == "yolo":
        builder = convert_yolo(source, split=split or "train", classes=classes)
    elif not os.path.isdir(source):
        raise InputError(f"{source}: is a file; give the folder of the data set")
    elif kind == "voc":
        builder = convert_voc(source, split=split, classes=classes)
    elif split:
        raise InputError(f"split {split!r}: labelme has none; give the folder of the part")
    else:
        builder = convert_labelme(source, classes=classes)
    builder.write(target)
    return builder


def detect_format(source: str) -> Format:
    """The format of a data set, by the files in its folder.

    Raises:
        InputError: it is none that is known.
    """
    if source.lower().endswith((".yaml", ".yml")):
        return "yolo"
    names = {name.lower() for name in os.listdir(source)} if os.path.isdir(source) else set()
    if names & {"data.yaml", "dataset.yaml", "data.yml", "classes.txt"}:
        return "yolo"
    if "labels" in names:  # some keep labelme's JSONs there
        inside = next(folder for folder in os.listdir(source) if folder.lower() == "labels")
        found = os.listdir(os.path.join(source, inside)) if os.path.isdir(os.path.join(source, inside)) else []
        return "labelme" if found and all(name.lower().endswith(".json") for name in found) else "yolo"
    if "annotations" in names or any(name.endswith(".xml") for name in names):
        return "voc"
    if any(name.endswith(".json") for name in names):
        return "labelme"
    raise InputError(
        f"{source}: is no data set of YOLO (data.yaml), VOC (Annotations or XMLs) or labelme (JSONs beside images); "
        "name one by --format"
    )
