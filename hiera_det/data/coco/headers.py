"""Sizes in the image files' headers against those in the JSON."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hiera_det.data.coco.findings import LISTED, Findings

__all__ = ["EXIF_FIRST_SWAPPED", "EXIF_ORIENTATION", "check_headers"]

#: Of more images than this, an evenly spaced sample of this many headers is read before a training.
MAX_HEADERS = 2000
#: EXIF tag of the orientation; from 5 on, showing the photograph upright swaps width and height.
EXIF_ORIENTATION, EXIF_FIRST_SWAPPED = 0x0112, 5
#: Files that are opened at a time.
THREADS = 8


def check_headers(images: Sequence[Mapping[str, Any]], root: str, findings: Findings, *, every: bool) -> None:
    """Compare the sizes in the image headers, EXIF orientation applied, with the JSON's.

    Args:
        images: checked entries whose files are there.
        root: the image folder.
        findings: is added to.
        every: read them all, and not a sample of `MAX_HEADERS`.
    """
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        findings.add("image-headers-sampled", "image sizes not compared with the files: Pillow is not installed")
        return
    sample = images if every or len(images) <= MAX_HEADERS else images[:: math.ceil(len(images) / MAX_HEADERS)]
    if len(sample) < len(images):
        findings.add("image-headers-sampled", f"{len(sample)} of {len(images)} image headers were read")
    paths = [os.path.join(root, image["file_name"]) for image in sample]
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(_upright_size, paths, chunksize=64))
    wrong = []
    for image, path, size in zip(sample, paths, found, strict=True):
        if isinstance(size, str):
            findings.add("image-unreadable", size, file=path, image_id=image["id"])
        elif size != (image["width"], image["height"]):
            wrong.append((image, size))
    if wrong:
        _tell_sizes(wrong, len(sample), findings)


def _tell_sizes(wrong: Sequence[tuple[Mapping[str, Any], tuple[int, int]]], total: int, findings: Findings) -> None:
    told = "; ".join(
        f"{image['file_name']} is {size[0]}x{size[1]}, JSON says {image['width']}x{image['height']}"
        for image, size in wrong[:LISTED]
    )
    remedy = None
    if all(size == (image["height"], image["width"]) for image, size in wrong):
        remedy = "the JSON has them unrotated: remove the EXIF orientation or swap width and height with the boxes"
    findings.add(
        "image-size",
        f"{len(wrong)} of {total} images differ in size (width x height, EXIF orientation applied): {told}",
        remedy=remedy,
        image_id=wrong[0][0]["id"],
        count=len(wrong),
    )


def _upright_size(path: str) -> tuple[int, int] | str:
    """Width and height as the image is shown, or why it cannot be read."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as header:
            stored, mode = header.size, header.mode
            swapped = header.getexif().get(EXIF_ORIENTATION, 1) >= EXIF_FIRST_SWAPPED
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        reason = "not an image that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
        return f"cannot be read as an image ({reason})"
    if mode.startswith(("I", "F")):
        return f"more than 8 bits per pixel (mode {mode}), which reading as RGB would clip"
    return stored[::-1] if swapped else stored
