"""A sheet of images with the objects that a JSON says are in them, to be looked at before a training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hiera_det.data.coco.rle import run_lengths
from hiera_det.data.coco.schema import Annotations, Contents
from hiera_det.data.images import read_image
from hiera_det.errors import printable
from hiera_det.files import write_atomically
from hiera_det.report.drawing import Mask, Objects, class_name, draw_objects
from hiera_det.report.sheet import captioned, justified

__all__ = ["draw_annotations"]

#: Longest side of a picture on the sheet, and the height of the line above it, in pixels.
SIDE, CAPTION = 480, 24


def draw_annotations(contents: Contents, image_root: str, path: str | Path, count: int = 16) -> Path:
    """Draw annotated images, evenly spaced over the JSON.

    Args:
        contents: what a checked JSON holds.
        image_root: its image folder.
        path: the sheet, a PNG.
        count: pictures on it; all images where there are not as many.

    Returns:
        ``path`` as a path.

    Raises:
        BadImageError: an image cannot be read.
        WriteError: the sheet cannot be written.
    """
    rows = np.unique(contents.rows) if len(contents.rows) else np.arange(len(contents.images))
    chosen = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)].tolist()
    sheet = justified([_picture(contents, image_root, row) for row in chosen], columns=4, width=4 * SIDE, gap=8)
    write_atomically(path, lambda file: sheet.save(file, format="PNG"))
    return Path(path)


def _picture(contents: Contents, image_root: str, row: int) -> Image.Image:
    image = list(contents.images.values())[row]
    pixels = read_image(os.path.join(image_root, image["file_name"]))
    scale = min(1.0, SIDE / max(pixels.size))
    size = (max(1, round(pixels.width * scale)), max(1, round(pixels.height * scale)))
    indices = np.flatnonzero(contents.rows == row).tolist()
    columns = contents.annotations
    names = [contents.names[id_] for id_ in sorted(contents.names)]
    places = {id_: place for place, id_ in enumerate(sorted(contents.names))}
    classes = [places[int(columns.category_ids[i])] for i in indices]
    labels = [
        class_name(place, names) + (" (crowd)" if columns.crowd[i] else "")
        for i, place in zip(indices, classes, strict=True)
    ]
    boxes = columns.boxes[indices].copy()
    boxes[:, 2:] += boxes[:, :2]
    masks = [_mask(columns, index, scale, size) for index in indices]
    points = [np.array(columns.keypoints.get(index, ()), np.float64).reshape(-1, 3) for index in indices]
    seen = [(some[some[:, 2] > 0, :2] + 0.5) * scale for some in points]  # COCO's are indices of pixels
    picture = draw_objects(np.asarray(pixels.resize(size)), Objects(boxes * scale, labels, classes, masks, seen))
    caption = f"{printable(image['file_name'])}: {len(indices)} object{'s' if len(indices) != 1 else ''}"
    return captioned(picture, caption, CAPTION, least_width=SIDE // 2)


def _mask(columns: Annotations, index: int, scale: float, size: tuple[int, int]) -> Mask:
    rle = columns.rles.get(index)
    if rle is None:
        return [polygon * scale for polygon in columns.polygons(index)]
    runs = run_lengths(rle["counts"])
    height, width = rle["size"]
    flat: Any = np.repeat(np.arange(0 if runs is None else len(runs)) % 2, runs).astype(np.uint8)
    full = Image.fromarray(flat.reshape(width, height).T)  # RLE runs down the columns
    return np.asarray(full.resize(size, Image.Resampling.NEAREST))
