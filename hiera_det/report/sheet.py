"""Laying pictures out: one below its caption, two side by side, many on a sheet without gaps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from PIL import Image, ImageDraw

from hiera_det.errors import printable
from hiera_det.report.fonts import font_for

__all__ = ["captioned", "justified", "lay_out"]


def captioned(picture: Image.Image, caption: str, height: int, least_width: int = 0) -> Image.Image:
    """A picture below a line of text.

    Args:
        picture: any size.
        caption: one line, in smaller letters where it would not fit; what does not fit even so is cut off.
        height: of the strip for the caption, in pixels.
        least_width: room for the caption of a narrow picture, which is then put in the middle.
    """
    width = max(picture.width, least_width)
    page = Image.new("RGB", (width, picture.height + height), "white")
    caption = printable(caption)
    draw, size = ImageDraw.Draw(page), height * 5 // 8
    needed = draw.textlength(caption, font=font_for(caption, size))
    size = max(size // 2, min(size, int(size * (width - 8) / max(needed, 1))))
    draw.text((4, height // 8), caption, fill="black", font=font_for(caption, size))
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


def justified(pictures: Sequence[Image.Image], columns: int, width: int, gap: int) -> Image.Image:
    """Pictures on one page, in rows that are as wide as the page: those of one row have the same height.

    Args:
        pictures: at least one; rows differ by one picture at most.
        columns: most in a row.
        width: of the page, in pixels; less where no row would be as wide by itself.
        gap: between pictures.
    """
    count = -(-len(pictures) // columns)
    bounds = [round(row * len(pictures) / count) for row in range(count + 1)]
    rows = [pictures[start:end] for start, end in pairwise(bounds)]
    width = min(width, max(sum(picture.width + gap for picture in row) - gap for row in rows))
    return lay_out([_row(row, width, gap) for row in rows], 1, gap)


def _row(pictures: Sequence[Image.Image], width: int, gap: int) -> Image.Image:
    """Pictures side by side, together as wide as the page."""
    shapes = [picture.width / picture.height for picture in pictures]
    height = max(1, round((width - gap * (len(pictures) - 1)) / sum(shapes)))
    sized = [
        picture.resize((max(1, round(height * shape)), height), Image.Resampling.LANCZOS)
        for picture, shape in zip(pictures, shapes, strict=True)
    ]
    page = Image.new("RGB", (width, height), "white")
    left = 0
    for picture in sized:
        page.paste(picture, (left, 0))
        left += picture.width + gap
    return page
