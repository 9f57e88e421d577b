"""Laying pictures out: one above its caption, two side by side, many on a sheet."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from PIL import Image, ImageDraw

from hiera_det.errors import printable
from hiera_det.report.fonts import font_for

__all__ = ["captioned", "lay_out"]


def captioned(picture: Image.Image, caption: str, height: int, least_width: int = 0) -> Image.Image:
    """A picture below a line of text.

    Args:
        picture: any size.
        caption: one line; what does not fit is cut off.
        height: of the strip for the caption, in pixels.
        least_width: room for the caption of a narrow picture, which is then put in the middle.
    """
    width = max(picture.width, least_width)
    page = Image.new("RGB", (width, picture.height + height), "white")
    caption = printable(caption)
    ImageDraw.Draw(page).text((4, height // 8), caption, fill="black", font=font_for(caption, height * 5 // 8))
    page.paste(picture, ((width - picture.width) // 2, height))
    return page


def lay_out(pictures: Sequence[Image.Image], columns: int, gap: int) -> Image.Image:
    """Pictures on one page, row by row, in columns of the width of the widest.

    Args:
        pictures: at least one.
        columns: most in a row.
        gap: between them, in pixels.
    """
    columns = min(columns, len(pictures))
    width = max(picture.width for picture in pictures)
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    tops = [0, *accumulate(max(picture.height for picture in row) + gap for row in rows)]
    page = Image.new("RGB", (columns * (width + gap) - gap, tops[-1] - gap), "white")
    for top, row in zip(tops, rows, strict=False):
        for column, picture in enumerate(row):
            page.paste(picture, (column * (width + gap), top))
    return page
