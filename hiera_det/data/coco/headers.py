"""Sizes in the image files' headers against those in the JSON."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from hiera_det.data.coco.findings import LISTED, Findings, listed
from hiera_det.data.images import BadImageError, ImageHeader, read_header, read_image
from hiera_det.errors import printable

__all__ = ["check_headers"]

#: Of more images than this, an evenly spaced sample of this many headers is read before a training.
MAX_HEADERS = 2000
#: Of deep images, so many are decoded to see which bits are in use.
MAX_DEEP = 16
#: Where no pixel is as bright, of 255, the numbers are of 12 bits or fewer.
DARK = 16
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
    # Threads although Python runs one at a time: on a network the time goes into waiting.
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(partial(_header, max_pixels=max_pixels), paths))
    wrong, transparent, deep = [], [], []
    for image, path, header in zip(sample, paths, found, strict=True):
        if isinstance(header, str):
            findings.add("image-unreadable", header, file=path, image_id=image["id"])
            continue
        if (size := (header.width, header.height)) != (image["width"], image["height"]):
            wrong.append((image, size, header.is_rotated))
        transparent += [image] if header.is_transparent else []
        deep += [image] if header.mode.startswith(("I", "F")) else []
    if wrong:
        _tell_sizes(wrong, len(sample), findings)
    for kind, which, what in (
        ("image-transparent", transparent, "are transparent and are laid on white"),
        ("image-deep", deep, "have more than 8 bits a pixel and are scaled to 8"),
    ):
        if which:
            said = f"{len(which)} of {len(sample)} images {what}: {listed([image['file_name'] for image in which])}"
            findings.add(kind, said, image_id=which[0]["id"], count=len(which))
    _tell_dark(deep, root, findings, max_pixels)


def _tell_dark(deep: Sequence[Mapping[str, Any]], root: str, findings: Findings, max_pixels: int) -> None:
    """Tell of images of 16 bits a pixel whose upper ones are not in use."""
    brightest = 0
    for image in deep[:: math.ceil(len(deep) / MAX_DEEP) or 1]:
        with contextlib.suppress(BadImageError):  # told by others
            pixels = read_image(os.path.join(root, image["file_name"]), "L", max_pixels)
            brightest = max(brightest, pixels.getextrema()[1])
    if deep and brightest < DARK:
        names = listed([image["file_name"] for image in deep])
        said = f"no pixel of the images with more than 8 bits is brighter than {brightest} of 255: {names}"
        findings.add("image-dark", said, image_id=deep[0]["id"], count=len(deep))


def _tell_sizes(
    wrong: Sequence[tuple[Mapping[str, Any], tuple[int, int], bool]], total: int, findings: Findings
) -> None:
    told = "; ".join(
        f"{image['file_name']} is {size[0]}x{size[1]}, JSON says {image['width']}x{image['height']}"
        for image, size, _ in wrong[:LISTED]
    )
    remedy = None
    if all(size == (image["height"], image["width"]) for image, size, _ in wrong):
        remedy = "the JSON has them unrotated: remove the EXIF orientation or swap width and height with the boxes"
        if not any(rotated for _, _, rotated in wrong):
            remedy = (
                "the JSON has width and height exchanged (no EXIF orientation is in the files): let `hiera-det check "
                "... --fix OUT.json` write the files' sizes, which it does where the boxes lie in them"
            )
    findings.add(
        "image-size",
        f"{len(wrong)} of {total} images differ in size (width x height, EXIF orientation applied): {told}",
        remedy=remedy,
        image_id=wrong[0][0]["id"],
        count=len(wrong),
    )


def _header(path: str, max_pixels: int) -> ImageHeader | str:
    """The header, or why it cannot be read."""
    try:
        return read_header(path, max_pixels)
    except BadImageError as error:
        return str(error).removeprefix(f"{printable(path)}: ")
