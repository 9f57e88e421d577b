"""Recognising what was given in the place of a COCO JSON, to say so and what turns it into one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

__all__ = ["recognised"]

#: A line of a YOLO label file: class, then centre and size or a polygon, as fractions.
_YOLO_LINE = re.compile(r"\s*\d+(\s+[-+.\de]+){4,}\s*(\n|\Z)")
_YOLO_YAML = re.compile(r"^\s*(names|nc|train|val)\s*:", re.MULTILINE)


def recognised(path: Path, content: Any = None) -> str:
    """Which other format a file, folder or parsed JSON is of, and the way out; "" where it is none that is known.

    Args:
        path: the file or folder.
        content: a text that is no JSON, or what a JSON holds.
    """
    if isinstance(content, str):
        found = _of_text(content)
    elif isinstance(content, dict):
        found = _of_object(content)
    elif isinstance(content, list):
        found = _of_list(content)
    else:
        found = _of_folder(path) if path.is_dir() else ""
    return f"; {found}" if found else ""


def _convert(what: str) -> str:
    return f"this is {what}: convert it with `hiera-det convert-dataset`"


def _of_text(text: str) -> str:
    start = text[:10_000]
    if start.lstrip("\ufeff \t\r\n").startswith("<"):
        if "<annotations>" in start:
            return "this is CVAT's own XML: export the task as COCO 1.0, or as YOLO or VOC and convert that"
        return _convert("a VOC annotation (XML)") if "<annotation" in start else "this is XML or HTML, not JSON"
    if _YOLO_LINE.match(start):
        return _convert("a YOLO label file")
    if _YOLO_YAML.search(start) and not start.lstrip().startswith("{"):
        return _convert("a YOLO data.yaml")
    return ""


def _of_object(content: dict[str, Any]) -> str:
    if "shapes" in content and "imagePath" in content:
        return _convert("a labelme file of one image")
    if "_via_img_metadata" in content or any(
        isinstance(value, dict) and "regions" in value for value in list(content.values())[:3]
    ):
        return "this is a project of the VGG Image Annotator: export it there as COCO"
    if "objects" in content and "size" in content:
        return "this is Supervisely's own file of one image: export the project there as COCO"
    if "items" in content and isinstance(content.get("categories"), dict):
        return "this is Datumaro's own format: export the data as COCO"
    return ""


def _of_list(content: list[Any]) -> str:
    first = content[0] if content and isinstance(content[0], dict) else {}
    if "score" in first and "image_id" in first:
        return "these are results of a detector, not a data set"
    if "annotations" in first and "data" in first:
        return "this is Label Studio's own JSON: export the project there as COCO"
    if "annotations" in first and "image" in first:
        return "this is CreateML's format: export the data as COCO"
    return ""


def _of_folder(path: Path) -> str:
    names = {entry.name.lower() for _, entry in zip(range(1000), path.iterdir(), strict=False)}
    if "data.yaml" in names or "classes.txt" in names or "labels" in names:
        return _convert("a YOLO data set")
    if ("annotations" in names and "jpegimages" in names) or any(name.endswith(".xml") for name in names):
        return _convert("a VOC data set")
    if any(name.endswith(".json") for name in names):
        listed = sorted(name for name in names if name.endswith(".json"))[:3]
        return f"it has {', '.join(listed)}"
    return ""
