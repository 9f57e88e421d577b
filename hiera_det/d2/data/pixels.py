"""Images as arrays in the channels that a detector takes: files by `hiera_det.data.images`, or what is in memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from PIL import Image

from hiera_det.data import memory
from hiera_det.data.images import MAX_PIXELS, read_image
from hiera_det.data.images import check_size as check_image_size
from hiera_det.data.memory import ImageLike, Pixels
from hiera_det.files import StrPath

__all__ = ["as_pixels", "check_size", "read_pixels"]


def read_pixels(file: StrPath, image_format: str, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Read an image upright: ``[H, W, channels]``, 0-255.

    Args:
        file: a path, or an address that detectron2's path manager knows.
        image_format: ``INPUT.FORMAT``: "RGB", "BGR", "L" or "YUV-BT.601".
        max_pixels: ``INPUT.MAX_PIXELS``.

    Raises:
        BadImageError: it cannot be read; the line names the file.
    """
    name = os.fspath(file)
    path = PathManager.get_local_path(name) if "://" in name else name
    return _in_format(read_image(path, _mode(image_format), max_pixels), image_format)


def check_size(record: dict[str, Any], image: Pixels) -> None:
    """Refuse an image of another size than the annotations were made for; fills the size in where there is none.

    Raises:
        BadImageError: both sizes and the file.
    """
    height, width = image.shape[:2]
    said = record.setdefault("width", width), record.setdefault("height", height)
    check_image_size(record["file_name"], (width, height), said)


def as_pixels(images: Sequence[ImageLike], image_format: str) -> list[Pixels]:
    """Images in memory as ``[H, W, channels]``, 0-255, in the order of ``INPUT.FORMAT``; see `hiera_det.data.memory`.

    Raises:
        InputError: they are not several images, or one cannot be used; its place, shape and type are named.
    """
    return memory.as_pixels(images, lambda image: _in_format(image, image_format), grey=image_format == "L")


def _mode(image_format: str) -> Any:
    return "L" if image_format == "L" else "RGB"


def _in_format(image: Image.Image, image_format: str) -> Pixels:
    pixels: Pixels = convert_PIL_to_numpy(image, image_format)
    return pixels.astype(np.float32) if pixels.dtype == np.float64 else pixels  # YUV is computed in doubles
