"""Images in memory: arrays, PIL images and tensors, by the rules for files of `hiera_det.data.images`.

Letters in shapes: H and W are an image's height and width.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from hiera_det.data.images import to_8_bits, without_alpha
from hiera_det.errors import InputError

__all__ = ["ImageLike", "Pixels", "as_pixels", "as_rgb", "is_one_image"]

Pixels: TypeAlias = npt.NDArray[Any]
ImageLike: TypeAlias = Pixels | Image.Image | Tensor
#: Brings a PIL image, "RGB" or "L", into the channels that are wanted.
Convert: TypeAlias = Callable[[Image.Image], Pixels]


def is_one_image(images: Any) -> bool:
    """Whether this is a single image, or path, and not several."""
    single = isinstance(images, Image.Image | str | os.PathLike)
    return single or getattr(images, "ndim", 4) < 4  # an array of several is a list


def as_rgb(images: Sequence[ImageLike]) -> list[npt.NDArray[np.uint8]]:
    """Images in memory as ``[H, W, 3]``, 0-255; see `as_pixels`."""
    return as_pixels(images, lambda image: np.asarray(image.convert("RGB")))


def as_pixels(images: Sequence[ImageLike], convert: Convert, grey: bool = False) -> list[Pixels]:
    """Images in memory as ``[H, W, channels]``, 0-255.

    Args:
        images: arrays ``[H, W, 3]`` with the channels in the order that is wanted, or grey ``[H, W]``, or with alpha
            ``[H, W, 4]``; PIL images; tensors ``[3, H, W]``. Each of its own size and of any number type, see
            `hiera_det.data.images.to_8_bits`.
        convert: of a PIL image.
        grey: one channel is wanted.

    Raises:
        InputError: they are not several images, or one cannot be used; its place, shape and type are named.
    """
    if is_one_image(images) or not isinstance(images, Iterable):
        raise InputError(f"images: {_named(images)}; give a list of images, [image] for a single one{_hint(images)}")
    return [_as_pixels(image, index, convert, grey) for index, image in enumerate(images)]


def _as_pixels(image: Any, index: int, convert: Convert, grey: bool) -> Pixels:
    """One image in memory."""
    if isinstance(image, Image.Image):
        return convert(_plain(image, index))
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
    if grey:
        return pixels if channels == 1 else convert(Image.fromarray(np.ascontiguousarray(pixels)))
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
