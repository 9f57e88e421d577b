"""Images as arrays in the channels that a detector takes: files by `hiera_det.data.images`, or what is in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from detectron2.data.detection_utils import convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from PIL import Image
from torch import Tensor

from hiera_det.data.images import MAX_PIXELS, read_image, to_8_bits, without_alpha
from hiera_det.data.images import check_size as check_image_size
from hiera_det.errors import InputError
from hiera_det.files import StrPath

__all__ = ["ImageLike", "Pixels", "as_pixels", "check_size", "read_pixels"]

Pixels: TypeAlias = npt.NDArray[Any]
ImageLike: TypeAlias = Pixels | Image.Image | Tensor


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
    """Images in memory as ``[H, W, channels]``, 0-255.

    Args:
        images: see `hiera_det.d2.predict.predictor.Predictor.__call__`.
        image_format: ``INPUT.FORMAT``.

    Raises:
        InputError: they are not several images, or one cannot be used; its place, shape and type are named.
    """
    single = isinstance(images, Image.Image | str) or getattr(images, "ndim", 4) < 4  # an array of several is a list
    single = single or isinstance(images, os.PathLike)
    if single or not isinstance(images, Iterable):
        raise InputError(f"images: {_named(images)}; give a list of images, [image] for a single one{_hint(images)}")
    return [_as_pixels(image, index, image_format) for index, image in enumerate(images)]


def _as_pixels(image: Any, index: int, image_format: str) -> Pixels:
    """One image in memory."""
    if isinstance(image, Image.Image):
        return _in_format(_plain(image, index), image_format)
    pixels = _array(image) if isinstance(image, Tensor) and image.layout is torch.strided else image
    if not isinstance(pixels, np.ndarray) or pixels.ndim not in (2, 3) or pixels.size == 0:
        raise InputError(f"images[{index}]: {_named(image)}; give pixels [H, W, 3], none of them empty{_hint(image)}")
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    channels = pixels.shape[2]
    if channels not in (1, 3, 4):
        axis = "the first axis of a tensor" if isinstance(image, Tensor) else "the last axis of an array"
        raise InputError(f"images[{index}]: {_named(image)}; give 1, 3 or 4 channels, {axis}")
    try:
        pixels = to_8_bits(pixels)
    except ValueError as error:
        raise InputError(f"images[{index}]: {_named(image)}; {error}") from None
    if channels == 4:
        pixels = np.asarray(without_alpha(Image.fromarray(np.ascontiguousarray(pixels))))
    if image_format == "L":
        return pixels if channels == 1 else _in_format(Image.fromarray(np.ascontiguousarray(pixels)), "L")
    return np.repeat(pixels, 3, axis=2) if channels == 1 else pixels


def _array(image: Tensor) -> Pixels:
    """A tensor as an array, its channels last."""
    image = image.detach().cpu()
    pixels: Pixels = (image.float() if image.dtype is torch.bfloat16 else image).numpy()  # NumPy has no bfloat16
    return pixels.transpose(1, 2, 0) if pixels.ndim == 3 else pixels


def _hint(image: Any) -> str:
    """Where a path belongs that stands in an image's place."""
    return "; files go to predict_files" if isinstance(image, str | os.PathLike) else ""


def _plain(image: Image.Image, index: int) -> Image.Image:
    """A PIL image with 8 bits and without alpha."""
    if not all(image.size):
        raise InputError(f"images[{index}]: {_named(image)}; it is empty")
    try:
        return without_alpha(image)
    except ValueError as error:
        raise InputError(f"images[{index}]: {_named(image)}; {error}") from None


def _named(image: Any) -> str:
    """What somebody has handed over, in a few words."""
    shape = getattr(image, "shape", getattr(image, "size", None))
    dtype = getattr(image, "dtype", getattr(image, "mode", None))
    kind = type(image).__name__
    return f"{kind} of shape {tuple(shape)} and type {dtype}" if shape is not None else kind


def _mode(image_format: str) -> Any:
    return "L" if image_format == "L" else "RGB"


def _in_format(image: Image.Image, image_format: str) -> Pixels:
    pixels: Pixels = convert_PIL_to_numpy(image, image_format)
    return pixels.astype(np.float32) if pixels.dtype == np.float64 else pixels  # YUV is computed in doubles
