"""What a trunk expects of its images: their shape, and the pixels that the published weights were trained with."""

from __future__ import annotations

import math

from torch import Tensor

from hiera_det.errors import InputError
from hiera_det.modeling.options import FRAME_STRIDE

__all__ = ["CLIP_PIXELS", "IMAGE_PIXELS", "check_images"]

#: Mean and deviation of red, green and blue that the published models were trained with: of images, and of clips.
IMAGE_PIXELS = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CLIP_PIXELS = (114.75, 114.75, 114.75), (57.375, 57.375, 57.375)


def check_images(images: Tensor, in_channels: int, video: bool, step: int) -> Tensor:
    """The images; refuses those that a trunk cannot take.

    Raises:
        InputError: their shape, and what it should be.
    """
    if not isinstance(images, Tensor):
        raise InputError(
            f"images of type {type(images).__name__}: give a tensor, torch.from_numpy makes one of an array"
        )
    if images.ndim != (5 if video else 4) or images.shape[1] != in_channels:
        raise InputError(f"images {list(images.shape)}: expected [B, {in_channels}, {'T, ' if video else ''}H, W]")
    if video and (images.shape[2] % FRAME_STRIDE or not images.shape[2]):
        raise InputError(f"clip of {images.shape[2]} frames: the number must be a multiple of {FRAME_STRIDE}")
    height, width = images.shape[-2:]
    for side, pixels in (("height", height), ("width", width)):
        if pixels % step or not pixels:
            pad_to = max(1, math.ceil(pixels / step)) * step
            raise InputError(
                f"image {height}x{width}: {side} must be a multiple of {step}; "
                f"pad to {pad_to} or use HieraFPN or HieraBackbone, which pad"
            )
    return images
