"""Sizes in the image files' headers against those in the JSON."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from hiera_det.data.coco.findings import LISTED, Findings
from hiera_det.data.images import BadImageError, read_header
from hiera_det.errors import printable

__all__ = ["check_headers"]

#: Of more images than this, an evenly spaced sample of this many headers is read before a training.
MAX_HEADERS = 2000
#: Files that are opened at a time.
THREADS = 8


def check_headers(
    images: Sequence[Mapping[str, Any]], root: str, findings: Findings, *, every: bool, max_pixels: int
) -> None:
    """Compare the sizes in the image headers, EXIF orientation applied, with the JSON's.

    Args:
        images: checked entries whose files are there.
        root: the image folder.
        findings: is added to.
        every: read them all, and not a sample of `MAX_HEADERS`.
        max_pixels: largest image, see `hiera_det.data.images`.
    """
    sample = images if every or len(images) <= MAX_HEADERS else images[:: math.ceil(len(images) / MAX_HEADERS)]
    if len(sample) < len(images):
        findings.add("image-headers-sampled", f"{len(sample)} of {len(images)} image headers were read")
    paths = [os.path.join(root, image["file_name"]) for image in sample]
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(partial(_upright_size, max_pixels=max_pixels), paths, chunksize=64))
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


def _upright_size(path: str, max_pixels: int) -> tuple[int, int] | str:
    """Width and height as the image is shown, or why it cannot be read."""
    try:
        header = read_header(path, max_pixels)
    except BadImageError as error:
        return str(error).removeprefix(f"{printable(path)}: ")
    return header.width, header.height
