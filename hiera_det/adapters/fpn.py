"""Trunk and feature pyramid for a detector of one's own, in plain PyTorch: from images of any size to named levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiera_det.errors import InputError
from hiera_det.files import StrPath
from hiera_det.modeling.hiera import Hiera
from hiera_det.modeling.pyramid import FPN
from hiera_det.modeling.variants import detector_fields
from hiera_det.zoo import build_hiera

__all__ = ["HieraFPN", "PyramidOutput"]

#: Fields with which the published sizes' windows no longer fit the mask units, or were not meant to.
UNIT_FIELDS = {"window_size", "mask_unit_size", "q_pool", "q_stride"}


class PyramidOutput(NamedTuple):
    """What `HieraFPN` gives.

    Attributes:
        maps: levels ``[B, out_channels, H/s, W/s]`` by name, finest first; H and W are ``padded_size``.
        channels: of each level, by name.
        strides: pixels per position of each level, by name.
        image_sizes: height and width of each image before the padding, which is at the bottom and right.
        padded_size: height and width that all images were padded to.
    """

    maps: dict[str, Tensor]
    channels: dict[str, int]
    strides: dict[str, int]
    image_sizes: list[tuple[int, int]]
    padded_size: tuple[int, int]


class HieraFPN(nn.Module):
    """A trunk with a feature pyramid, which normalises and pads its images itself.

    It has no parameter without a gradient, whatever the levels: DDP needs no ``find_unused_parameters``.

    Args:
        size: ``tiny``, ``small``, ``base``, ``base_plus``, ``large`` or ``huge``; or a trunk of your own.
        weights: as in `hiera_det.build_hiera`; "" leaves it random.
        levels: those to return, some of ``p2`` ... ``p6``, and ``p7`` with the top ``conv``.
        out_channels: channels of every level.
        norm: ``"LN"`` after each convolution of the pyramid, or ``""``.
        top: ``"pool"`` or ``"conv"``, see `hiera_det.FPN`.
        windowed: attend in windows, with three global blocks, as the Mask R-CNN configs do; otherwise stages 3 and 4
            attend over the whole image, which large images make slow; so they do where mask units are of another size.
        pixel_max: what white is: 255, or 1 for images as torchvision's ``ToTensor`` gives them.
        pixel_mean: of the channels, for pixels of 0 to 255; the trunk's own unless given.
        pixel_std: likewise.
        fields: any field of `HieraOptions`, such as ``drop_path_rate=0.2``.

    Attributes:
        channels: of each level, by name.
        strides: of each level, by name, in pixels.
        white: ``pixel_max``.

    Raises:
        InputError: a value that cannot be used, or weights that do not fit.

    Example:
        >>> import torch
        >>> from hiera_det import HieraFPN
        >>> fpn = HieraFPN("tiny", levels=("p3", "p5"), out_channels=64)
        >>> found = fpn([torch.randint(256, (3, 60, 90)), torch.randint(256, (3, 64, 50))])
        >>> {name: tuple(map.shape) for name, map in found.maps.items()}
        {'p3': (2, 64, 8, 12), 'p5': (2, 64, 2, 3)}
        >>> found.image_sizes, found.padded_size
        ([(60, 90), (64, 50)], (64, 96))
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        size: str | Hiera,
        *,
        weights: StrPath = "",
        levels: Sequence[str] = ("p2", "p3", "p4", "p5", "p6"),
        out_channels: int = 256,
        norm: str = "LN",
        top: str = "pool",
        windowed: bool = True,
        pixel_max: float = 255.0,
        pixel_mean: Sequence[float] | None = None,
        pixel_std: Sequence[float] | None = None,
        **fields: Any,
    ) -> None:
        super().__init__()
        if isinstance(size, Hiera):
            if weights or fields:
                raise InputError(f"HieraFPN: {[*fields] or 'weights'} are for a size by name, not for a trunk")
            self.trunk = size
        else:
            windows = windowed and not fields.keys() & UNIT_FIELDS
            given = detector_fields(size, fields.get("depths")) if windows else {}
            self.trunk = build_hiera(size, weights=weights, **(given | fields))
        self.neck = FPN(self.trunk.feature_info, out_channels, norm, levels, top)
        self.channels = {feature.name: feature.channels for feature in self.neck.feature_info}
        self.strides = {feature.name: feature.stride for feature in self.neck.feature_info}
        self.white = pixel_max
        for name, own in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            values = getattr(self.trunk, name) if own is None else own
            if len(values) != self.trunk.in_channels:
                raise InputError(
                    f"{name} {tuple(values)}: give one value for each of {self.trunk.in_channels} channels"
                )
            scaled = torch.tensor(values).view(-1, 1, 1) * (pixel_max / 255)
            self.register_buffer(name, scaled, persistent=False)

    def forward(self, images: Tensor | Sequence[Tensor]) -> PyramidOutput:
        """Compute the levels.

        Args:
            images: a batch ``[B, C, H, W]``, or a list of ``[C, H, W]`` of any sizes: red, green and blue, of 0 to
                ``pixel_max``, of any type.

        Raises:
            InputError: there are no images, or they have other channels.
        """
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        batch = self.prepare(images)
        return PyramidOutput(self.levels(batch), self.channels, self.strides, sizes, (batch.shape[2], batch.shape[3]))

    def prepare(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """Images, normalised and padded with zeros, the mean colour, to one size that the trunk takes: a batch."""
        channels = self.trunk.in_channels
        wrong = [list(image.shape) for image in images if image.ndim != 3 or image.shape[0] != channels]
        if wrong or not len(images):
            raise InputError(f"images {wrong[0] if wrong else '[]'}: give a batch or list of [{channels}, H, W]")
        step, device = self.trunk.size_divisibility, self.pixel_mean.device
        height, width = (math.ceil(max(image.shape[axis] for image in images) / step) * step for axis in (1, 2))
        normed = [(image.to(device).float() - self.pixel_mean) / self.pixel_std for image in images]
        padded = [F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])) for image in normed]
        return torch.stack(padded).to(self.pixel_mean.dtype)

    def levels(self, batch: Tensor) -> dict[str, Tensor]:
        """The levels of a batch ``[B, C, H, W]`` as `prepare` gives it."""
        return self.neck(self.trunk(batch))

    def freeze(self, stages: int | Sequence[str]) -> None:
        """Stop learning in parts of the trunk; see `Hiera.freeze`."""
        self.trunk.freeze(stages)
