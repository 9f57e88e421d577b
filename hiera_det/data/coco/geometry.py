"""Areas and extents of polygons, of all annotations at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw

from hiera_det.data.coco.schema import Annotations, Floats, Ints

__all__ = ["drawn_area", "is_flat", "mask_extents", "polygon_areas"]

#: Numbers that are worked on at a time, so that what is made of them on the way takes little memory.
CHUNK = 1_000_000
#: Side of the drawing from which the area of polygons that cross themselves is taken.
DRAWN_SIDE = 128


def drawn_area(polygons: Sequence[Floats]) -> float:
    """Area in pixels of what polygons x1, y1, x2, y2, ... cover: of those that cross themselves or each other too.

    The formula's sum where that is about what a drawing of them covers, else the drawing's.
    """
    points = [polygon.reshape(-1, 2) for polygon in polygons]
    formula = sum(float(abs(np.dot(np.roll(x, 1), y) - np.dot(x, np.roll(y, 1))) / 2) for x, y in (p.T for p in points))
    every = np.concatenate(points)
    low, sides = every.min(0), np.maximum(np.ptp(every, 0), 1e-9)
    picture = Image.new("1", (DRAWN_SIDE, DRAWN_SIDE))
    draw = ImageDraw.Draw(picture)
    for polygon in points:
        draw.polygon([tuple(point) for point in ((polygon - low) / sides * DRAWN_SIDE - 0.5).tolist()], fill=1)
    drawn = float(np.asarray(picture).mean() * sides.prod())
    return formula if abs(drawn - formula) <= 0.2 * max(drawn, formula) else drawn


def is_flat(polygon: Floats) -> bool:
    """Whether all points lie on one line; one that crosses itself may have no area by the formula, and is not flat."""
    points = polygon.reshape(-1, 2) - polygon[:2]
    farthest = points[np.argmax((points**2).sum(1))]
    return bool(np.abs(points[:, 0] * farthest[1] - points[:, 1] * farthest[0]).max() < 0.01)


def polygon_areas(annotations: Annotations) -> Floats:
    """Area of each annotation's polygons, ``[N]``; 0 without any."""
    per_polygon = np.zeros(len(annotations.number_starts) - 1)
    for first, last, numbers, starts in _chunks(annotations):
        x, y = numbers[0::2], numbers[1::2]
        begins = starts // 2
        # The point before each one; before a polygon's first comes its last.
        before: Ints = np.arange(len(x)) - 1
        before[begins] = np.append(begins[1:], len(x)) - 1
        per_polygon[first:last] = np.abs(np.add.reduceat(x[before] * y - x * y[before], begins)) / 2
    areas = np.zeros(len(annotations))
    starts = annotations.polygon_starts
    having = np.flatnonzero(starts[1:] > starts[:-1])
    if having.size:
        areas[having] = np.add.reduceat(per_polygon, starts[having])
    return areas


def mask_extents(annotations: Annotations) -> Floats:
    """Least x, least y, most x, most y of each annotation's polygons, ``[N, 4]``; NaN without any."""
    per_polygon = np.empty((len(annotations.number_starts) - 1, 4))
    for first, last, numbers, starts in _chunks(annotations):
        points, begins = numbers.reshape(-1, 2), starts // 2
        per_polygon[first:last, :2] = np.minimum.reduceat(points, begins)
        per_polygon[first:last, 2:] = np.maximum.reduceat(points, begins)
    extents = np.full((len(annotations), 4), np.nan)
    starts = annotations.polygon_starts
    having = np.flatnonzero(starts[1:] > starts[:-1])
    if having.size:
        extents[having, :2] = np.minimum.reduceat(per_polygon[:, :2], starts[having])
        extents[having, 2:] = np.maximum.reduceat(per_polygon[:, 2:], starts[having])
    return extents


def _chunks(annotations: Annotations) -> Iterator[tuple[int, int, Floats, Ints]]:
    """First and last polygon, their numbers, and where in these each begins."""
    starts = annotations.number_starts
    first = 0
    while first < len(starts) - 1:
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + CHUNK, side="right")) - 1)
        yield first, last, annotations.numbers[starts[first] : starts[last]], starts[first:last] - starts[first]
        first = last
