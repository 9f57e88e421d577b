"""What boxes are that do not fit their images as [x, y, width, height]."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hiera_det.data.coco.schema import Floats

__all__ = ["CENTRES", "CORNERS", "box_form", "is_percent"]

CORNERS, CENTRES = "[x1, y1, x2, y2]", "[centre x, centre y, width, height]"
#: Share of the boxes that a form has to fit, and pixels of slack.
FITS, SLACK = 0.99, 1.0
#: Boxes that have to leave their images, for a form to be suspected where most do not, and by how much of their sides.
LEAVING, BY = 5, 0.1
#: Boxes of percent lie in one corner of an image of at least so many pixels a side; by chance one may, not so many.
PERCENT_SIDE, PERCENT_BOXES = 300, 5


def box_form(boxes: Floats, sizes: Floats) -> str:
    """In which other form all boxes lie in their images; "" where none is likely.

    Args:
        boxes: as they stand in the JSON, ``[N, 4]``.
        sizes: width and height of each one's image, ``[N, 2]``.
    """
    has_area = (boxes[:, 2:] > 0).all(1)
    first, second, sizes = boxes[has_area, :2], boxes[has_area, 2:], sizes[has_area]
    over = (first + second - sizes) / np.maximum(second, 1e-9)
    leaving = (over > 0).any(1) & (first + second > sizes + SLACK).any(1)
    # Boxes that are just drawn too large leave their images at each border, and by little.
    inside = (first >= -SLACK).all(1)  # a left or upper border that is crossed is none of another form's
    if leaving.sum() < min(LEAVING, max(1, len(first))) or np.median(over[leaving].max(1)) < BY or not _most(inside):
        return ""
    if _most((second > first).all(1) & (second <= sizes + SLACK).all(1)):
        return CORNERS
    half = second / 2
    if _most((first - half >= -SLACK).all(1) & (first + half <= sizes + SLACK).all(1)):
        return CENTRES
    return ""


def is_percent(boxes: Floats, sizes: Floats) -> bool:
    """Whether all boxes lie within 100 pixels of the corners of images that are much larger."""
    if len(boxes) < PERCENT_BOXES or not (sizes >= PERCENT_SIDE).all():
        return False
    return bool((boxes >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= 100 + SLACK).all())


def _most(fits: npt.NDArray[np.bool_]) -> bool:
    return bool(fits.mean() >= FITS)
