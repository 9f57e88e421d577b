"""Drawing objects on an image: masks, boxes and labels, in a colour for each class.

Masks are drawn pixel by pixel: a hole stays a hole, and an image may be one pixel wide.
Letters in shapes: N objects of one picture, H and W its height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from hiera_det.errors import printable
from hiera_det.report.labels import Labels

__all__ = ["PALETTE", "Mask", "Objects", "class_name", "draw_objects"]

Color: TypeAlias = tuple[float, float, float]

#: Colours of the classes, told apart on photographs and from each other, again from the first on; RGB in 0-1.
PALETTE: tuple[Color, ...] = (
    (0.00, 0.85, 0.95),
    (1.00, 0.55, 0.05),
    (0.35, 0.90, 0.25),
    (1.00, 0.30, 0.75),
    (1.00, 0.90, 0.10),
    (0.60, 0.50, 1.00),
    (1.00, 0.30, 0.25),
    (0.20, 0.60, 1.00),
    (0.70, 1.00, 0.70),
    (0.90, 0.70, 0.55),
)

#: Share of the colour inside a mask.
ALPHA = 0.35
#: Longest side in pixels up to which letters and lines have their plain size.
PLAIN_SIDE = 640

#: Letters of a class's name: longer ones would hide the picture.
LONGEST = 28

#: One mask: polygons [x0, y0, x1, y1, ...], whose union it is (none: no mask), or a binary map [H, W].
Mask: TypeAlias = list[npt.NDArray[np.float64]] | npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Objects:
    """What is drawn on one picture, in the picture's pixels.

    Attributes:
        boxes: XYXY ``[N, 4]``.
        labels: N texts, "" for none.
        classes: N indices, which give the colours.
        masks: N masks, or None where there are none at all.
        keypoints: of each object the places that are drawn, N times ``[K, 2]``, or None where there are none at all.
    """

    boxes: npt.NDArray[np.float64]
    labels: list[str]
    classes: list[int]
    masks: list[Mask] | None = None
    keypoints: list[npt.NDArray[np.float64]] | None = None


def class_name(category: int, names: Sequence[str] | None) -> str:
    """The name of a class by its index, cut where it is long, or a stand-in where it has none."""
    name = printable(names[category]) if names and category < len(names) else f"class {category}"
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def draw_objects(image: npt.NDArray[np.uint8], objects: Objects) -> Image.Image:
    """An RGB image ``[H, W, 3]`` with its objects; lines and letters grow with the image.

    Args:
        image: is not changed.
        objects: the large ones are drawn first, so that none hides another; the first ones' labels lie best.
    """
    colors = [PALETTE[index % len(PALETTE)] for index in objects.classes]
    picture = Image.fromarray(image).copy()
    order = np.argsort(-_areas(objects.boxes), kind="stable")
    for index in order if objects.masks is not None else ():
        assert objects.masks is not None
        _draw_mask(picture, objects.masks[index], colors[index])
    draw = ImageDraw.Draw(picture)
    line = max(1, round(1.5 * _scale(picture.size)))
    for index in order:
        draw.rectangle(_corners(objects.boxes[index], picture.size), outline=_rgb(colors[index]), width=line)
    for points, color in zip(objects.keypoints or (), colors, strict=False):
        for x, y in points.tolist():
            draw.circle((x, y), 2 * line, fill=_rgb(color), outline=(0, 0, 0))
    labels = Labels(draw, picture.size, _scale(picture.size))
    for box, label, color in zip(objects.boxes.tolist(), objects.labels, colors, strict=True):  # above all boxes
        if label:
            labels.add(box, label, _readable(color))
    return picture


def _areas(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _scale(size: tuple[int, int]) -> float:
    return max(1.0, max(size) / PLAIN_SIDE)


def _rgb(color: Color) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in color)
    return red, green, blue


def _corners(box: npt.NDArray[np.float64], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """First and last pixel of a box inside the picture (width, height)."""
    x0, y0 = (int(np.clip(np.floor(low), 0, side - 1)) for low, side in zip(box[:2], size, strict=True))
    x1, y1 = (int(np.clip(np.ceil(high) - 1, 0, side - 1)) for high, side in zip(box[2:], size, strict=True))
    return x0, y0, max(x0, x1), max(y0, y1)


def _draw_mask(picture: Image.Image, mask: Mask, color: Color) -> None:
    """Tint a mask's pixels and draw its edge, that of its holes too; in place."""
    inside = _binary(mask, picture.size[::-1])
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):
        return
    around = np.zeros((rows[-1] - rows[0] + 3, columns[-1] - columns[0] + 3), bool)
    around[1:-1, 1:-1] = inside = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    core = around[:-2, 1:-1] & around[2:, 1:-1]
    core &= around[1:-1, :-2]
    core &= around[1:-1, 2:]
    # The colour's share of each pixel: Pillow lays it on in one pass, which NumPy does in five.
    share = np.where(core, np.uint8(round(255 * ALPHA)), np.uint8(255)) * inside
    picture.paste(_rgb(color), (int(columns[0]), int(rows[0])), Image.fromarray(share))


def _binary(mask: Mask, size: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """A mask as a map ``[H, W]``."""
    if not isinstance(mask, list):
        return mask.astype(bool, copy=False)
    picture = Image.new("1", (size[1], size[0]))
    draw = ImageDraw.Draw(picture)
    for polygon in mask:
        # Pillow fills the pixels that the line crosses too: half a pixel in, the area stays about the same.
        points = (np.asarray(polygon, dtype=np.float64).reshape(-1, 2) - 0.5).clip(-1e6, 1e6)
        if len(points) > 1:
            draw.polygon([tuple(point) for point in points.tolist()], fill=1)
    return np.asarray(picture)


def _readable(color: Color) -> tuple[int, int, int]:
    """A colour as bright as the palette's brightest, to be read on a dark ground."""
    red, green, blue = (0.3 + 0.7 * part for part in color)
    return _rgb((red, green, blue))
