"""labelme's data sets: a JSON of shapes beside each image.

Polygons, rectangles and masks are objects; circles become polygons; outlines of one label and group are one object.
Points and lines have no area: they are left out and counted.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hiera_det.data.coco.read import read_json
from hiera_det.data.convert.build import CocoBuilder, Size, image_of, read_class_names
from hiera_det.errors import InputError

__all__ = ["convert_labelme"]

#: Corners of the polygon that stands for a circle.
CORNERS = 32

#: Labels that labelme's own tools take for no class.
NO_CLASSES = {"__ignore__", "_background_"}

#: Shapes of points that hold nothing between them. Others are outlines, as the turned boxes of tools that are like it.
WITHOUT_AREA = ("point", "points", "line", "linestrip")

Points = list[tuple[float, float]]


def convert_labelme(source: str, *, classes: str | None = None) -> CocoBuilder:
    """A folder of labelme's JSONs, and of the folders in it.

    Args:
        source: the folder.
        classes: a file of class names, which fixes their order; by default it is the alphabet's.

    Raises:
        InputError: something is not there, or a JSON cannot be read; names the file.
    """
    read = {path: entry for path in _jsons(source) if (entry := _read(path))}
    if not read:
        raise InputError(f"{source}: there are no labelme JSONs in it")
    found = sorted({label for path, entry in read.items() for label, _, _ in _shapes(entry, path)} - NO_CLASSES)
    names = [name for name in read_class_names(classes) if name not in NO_CLASSES] if classes else found
    unknown = [name for name in found if name not in names]
    if unknown:
        raise InputError(f"{classes}: lacks the class {unknown[0]!r} of {source}; add it")
    builder = CocoBuilder(source, names)
    for path, entry in read.items():
        size = builder.add_image(_image(entry, path), (entry.get("imageWidth"), entry.get("imageHeight")), path)
        _add(builder, entry, size, path)
    return builder


def _jsons(source: str) -> list[str]:
    return sorted(
        os.path.join(parent, name)
        for parent, _, names in os.walk(source)
        for name in names
        if name.lower().endswith(".json")
    )


def _read(path: str) -> dict[str, Any] | None:
    """What labelme wrote; None for a JSON of something else, such as COCO's."""
    data = read_json(path)
    is_labelme = isinstance(data, dict) and isinstance(data.get("shapes"), list) and "imagePath" in data
    return data if is_labelme else None


def _image(entry: dict[str, Any], path: str) -> str:
    name = str(entry["imagePath"]).replace("\\", "/")
    folder = os.path.dirname(path)
    for candidate in (os.path.join(folder, name), os.path.join(folder, os.path.basename(name))):
        if os.path.isfile(candidate):
            return os.path.normpath(candidate)
    found = image_of(os.path.splitext(path)[0])
    if found is None:
        raise InputError(f"{path}: its image {name!r} is not there")
    return found


def _add(builder: CocoBuilder, entry: dict[str, Any], size: Size, path: str) -> None:
    """Add the objects of one image; parts of a group go together."""
    groups: dict[Any, list[list[float]]] = {}
    for number, (label, group, shape) in enumerate(_shapes(entry, path)):
        if label in NO_CLASSES:
            builder.notes[f"{label} left out: labelme's word for what is no object"] += 1
            continue
        if shape.get("shape_type") == "mask":
            builder.add_mask(label, _bitmap(shape, size, path))
            continue
        outline = _outline(shape, path)
        if outline is None:
            builder.notes[f"{shape.get('shape_type')} left out: it has no area"] += 1
            continue
        # labelme's way to say that several outlines are one object, such as one behind a pole.
        key = (label, number) if group is None else (label, "group", str(group))
        groups.setdefault(key, []).append([value for point in outline for value in point])
    for (label, *_), polygons in groups.items():
        builder.add_polygons(label, polygons)


def _shapes(entry: dict[str, Any], path: str) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    for shape in entry["shapes"]:
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"].strip():
            raise InputError(f"{path}: a shape has no label")
        yield shape["label"].strip(), shape.get("group_id"), shape


def _outline(shape: dict[str, Any], path: str) -> Points | None:
    """Corners of a shape; None if it has no area."""
    kind, points = shape.get("shape_type") or "polygon", shape.get("points")
    if not isinstance(points, list) or not all(_is_point(point) for point in points):
        raise InputError(f"{path}: the points of {shape['label']!r} are not pairs of numbers")
    if kind == "rectangle" and len(points) >= 2:
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        return [(min(xs), min(ys)), (max(xs), min(ys)), (max(xs), max(ys)), (min(xs), max(ys))]
    if kind == "circle" and len(points) == 2:
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        angles = [2 * math.pi * corner / CORNERS for corner in range(CORNERS)]
        return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]
    return [(x, y) for x, y in points] if kind not in WITHOUT_AREA and len(points) >= 3 else None


def _bitmap(shape: dict[str, Any], size: Size, path: str) -> npt.NDArray[np.bool_]:
    """Pixels ``[H, W]`` of a mask, which labelme keeps as a PNG of what lies in its box."""
    mask = np.zeros(size[::-1], bool)
    try:
        (left, top), _ = ((int(x), int(y)) for x, y in shape["points"])
        png = Image.open(io.BytesIO(base64.b64decode(shape["mask"])), formats=("PNG",))
        if not (0 <= left <= size[0] - png.width and 0 <= top <= size[1] - png.height):
            raise ValueError("it leaves the image")
        mask[top : top + png.height, left : left + png.width] = np.asarray(png.convert("L")) > 0
    except (KeyError, TypeError, ValueError, OSError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: the mask of {shape['label']!r} cannot be read ({error})") from None
    return mask


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, list)
        and len(point) == 2
        and all(type(value) in (int, float) and abs(value) < 1e6 for value in point)
    )
