"""Names of objects on a picture, on dark ground, where they hide neither the picture nor each other.

Where there is no room for a label it is left out: the object's colour still tells its class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from PIL import ImageDraw

from hiera_det.report.fonts import font_for

__all__ = ["Labels"]

#: Letters of a small and of a large object in pixels, and the side from which on an object is large.
SMALL, LARGE, LARGE_SIDE = 10, 13, 48
GROUND = (24, 24, 24)


class Labels:
    """Draws labels, the first where it belongs and later ones beside those that are there.

    Args:
        draw: on the picture.
        size: the picture's width and height.
        scale: of letters, 1 on a picture of usual size.

    Attributes:
        taken: the places of those drawn, XYXY.
    """

    def __init__(self, draw: ImageDraw.ImageDraw, size: tuple[int, int], scale: float) -> None:
        self.draw, self.size, self.scale = draw, size, scale
        self.taken: list[tuple[float, float, float, float]] = []

    def add(self, box: Sequence[float], label: str, color: tuple[int, int, int]) -> None:
        """Draw one object's label; none where there is no room for it.

        Args:
            box: the object's, XYXY.
            label: one line.
            color: of the letters, RGB.
        """
        is_large = min(box[2] - box[0], box[3] - box[1]) >= LARGE_SIDE * self.scale
        font = font_for(label, round(self.scale * (LARGE if is_large else SMALL)))
        left, top, right, bottom = self.draw.textbbox((0, 0), label, font=font)
        margin = round(2 * self.scale)
        width, height = right - left + 2 * margin, bottom - top + 2 * margin
        if width > self.size[0] or 2 * height > self.size[1]:  # it would hide the picture
            return
        places = self._places(box, width, height)
        place = next((place for place in places if not any(_overlap(place, other) for other in self.taken)), None)
        if place is None:
            return
        self.taken.append(place)
        self.draw.rectangle(place, fill=GROUND)
        self.draw.text((place[0] + margin - left, place[1] + margin - top), label, fill=color, font=font)

    def _places(self, box: Sequence[float], width: float, height: float) -> Iterator[tuple[float, float, float, float]]:
        """Places for a label inside the picture, the best first: above the box, in it, below it; at the left first."""
        x0, y0, x1, y1 = box
        for x in (x0, x1 - width, (x0 + x1 - width) / 2):
            left = min(max(x, 0.0), self.size[0] - width)
            for y in (y0 - height if y0 >= height else y0, y0, y1, y1 - height, y0 - 2 * height, y1 + height):
                top = min(max(y, 0.0), self.size[1] - height)
                yield left, top, left + width, top + height


def _overlap(first: tuple[float, float, float, float], second: tuple[float, float, float, float]) -> bool:
    """Whether two boxes, XYXY, have pixels in common."""
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]
