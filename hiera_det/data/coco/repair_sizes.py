"""Images' sizes in a JSON that is mended: those of the files, where the JSON has none or has them exchanged."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from hiera_det.data.coco.entries import is_side
from hiera_det.data.coco.meant import all_finite
from hiera_det.data.coco.names import Folder, leads_outside
from hiera_det.data.images import BadImageError, ImageHeader, read_header

__all__ = ["mend_sizes"]

#: Pixels by which a box may leave its image.
SLACK = 1


def mend_sizes(data: dict[str, Any], root: str, done: Counter[str]) -> None:
    """Write the sizes of the files.

    Args:
        data: the JSON's three lists; changed in place.
        root: the image folder, which the file names are right for.
        done: what was done; is added to.
    """
    reach = _reach(data["annotations"])
    folder = Folder(root)
    for image in data["images"]:
        name = image.get("file_name")
        if not isinstance(name, str) or leads_outside(name) or not folder.has(name):
            continue
        try:
            header = read_header(os.path.join(root, name))
        except BadImageError:
            continue
        if _is_unsized(image) or _is_exchanged(image, header, reach.get(str(image.get("id")), (0.0, 0.0))):
            image["width"], image["height"] = header.width, header.height
            done["width and height taken of the file"] += 1


def _is_unsized(image: dict[str, Any]) -> bool:
    return not all(is_side(image.get(key)) for key in ("width", "height"))


def _is_exchanged(image: dict[str, Any], header: ImageHeader, reach: tuple[float, float]) -> bool:
    """Whether a JSON has the sides the other way round; with an EXIF orientation boxes may be as well."""
    width, height = header.width, header.height
    if header.is_rotated or width == height or (image["height"], image["width"]) != (width, height):
        return False
    return reach[0] <= width + SLACK and reach[1] <= height + SLACK


def _reach(annotations: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """How far the boxes of each image reach to the right and down, by the image's id as a text."""
    found: dict[str, tuple[float, float]] = {}
    for annotation in annotations:
        box, id_ = annotation.get("bbox"), str(annotation.get("image_id"))
        if isinstance(box, list) and len(box) == 4 and all_finite(box):
            right, bottom = found.get(id_, (0.0, 0.0))
            found[id_] = (max(right, box[0] + box[2]), max(bottom, box[1] + box[3]))
    return found
