"""Necks: the feature pyramid over four stages (Lin et al. 2017) and ViTDet's simple pyramid (Li et al. 2022, sec. 3).

Both take the trunk's dict of maps and return ``p2`` ... ``p5`` at strides 4 ... 32, and ``p6`` by max-pooling ``p5``.
The FPN is the Hiera paper's choice (appendix A.2). Letters: B images, C channels, H and W in pixels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from hiera_det.errors import InputError
from hiera_det.modeling.hiera import Feature

__all__ = ["FPN", "LayerNorm2d", "SimpleFeaturePyramid"]

PYRAMID_STRIDES = (4, 8, 16, 32)


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a map ``[B, C, H, W]``, at each position (detectron2's "LN", ConvNeXt).

    A subclass of ``torch.nn.LayerNorm`` so that optimizers which spare norms from weight decay recognise it.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; shape and layout stay, and channels-last memory needs no copy."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNorm(nn.Sequential):
    """A convolution and, where asked for, a LayerNorm; the bias is left to the norm.

    Args:
        in_channels: channels in.
        out_channels: channels out.
        kernel_size: odd; padded so that the size stays.
        norm: ``"LN"`` or ``""`` for none.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, norm: str) -> None:
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=not norm)
        # detectron2's FPN starts this way (c2_xavier_fill): uniform, unit gain, over the fan in.
        nn.init.kaiming_uniform_(conv.weight, a=1)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        super().__init__(conv, *make_norm(norm, out_channels))


def make_norm(norm: str, channels: int) -> list[nn.Module]:
    """The norm layer of that name in a list, empty for ``""``.

    Raises:
        InputError: a name that the necks do not know.
    """
    if norm not in ("", "LN"):
        raise InputError(f'neck norm {norm!r}: use "LN" or "" for none')
    return [LayerNorm2d(channels)] if norm else []


def _level(stride: int) -> str:
    """Name of a pyramid level: p2 for stride 4, p3 for stride 8."""
    return f"p{int(math.log2(stride))}"


class FPN(nn.Module):
    """Feature pyramid: lateral 1x1 convolutions, top-down sums, 3x3 output convolutions, ``p6`` by max-pool.

    Args:
        features: the trunk's ``feature_info``; strides must double from one to the next.
        out_channels: channels of every level.
        norm: ``"LN"`` after each convolution, or ``""``.

    Attributes:
        feature_info: name, channels and stride of each level returned.

    Raises:
        InputError: strides that do not double, or an unknown norm.
    """

    def __init__(self, features: Sequence[Feature], out_channels: int = 256, norm: str = "LN") -> None:
        super().__init__()
        self.features = tuple(sorted(features, key=lambda feature: feature.stride))
        strides = [feature.stride for feature in self.features]
        if any(high != 2 * low for low, high in itertools.pairwise(strides)):
            raise InputError(f"FPN over strides {strides}: each must be twice the one before")
        laterals = {_level(f.stride): ConvNorm(f.channels, out_channels, 1, norm) for f in self.features}
        self.lateral = nn.ModuleDict(laterals)
        self.output = nn.ModuleDict({_level(s): ConvNorm(out_channels, out_channels, 3, norm) for s in strides})
        strides.append(2 * strides[-1])
        self.feature_info = tuple(Feature(_level(s), out_channels, s) for s in strides)

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Stage maps to levels ``[B, out_channels, H/s, W/s]``, finest first; other entries of ``maps`` are ignored."""
        levels: list[tuple[str, Tensor]] = []
        merged: Tensor | None = None
        for feature in reversed(self.features):
            name = _level(feature.stride)
            lateral = self.lateral[name](maps[feature.name])
            merged = lateral if merged is None else lateral + F.interpolate(merged, scale_factor=2.0, mode="nearest")
            levels.append((name, self.output[name](merged)))
        levels.reverse()
        return dict(levels) | {self.feature_info[-1].name: _pool_top(levels[-1][1])}


class SimpleFeaturePyramid(nn.Module):
    """ViTDet's pyramid from one map: transposed convolutions up, max-pool down, then 1x1 and 3x3 convolutions.

    Args:
        feature: the stage to start from; ViTDet uses stride 16, which is Hiera's ``stage3``.
        out_channels: channels of every level.
        norm: ``"LN"`` or ``""``.

    Attributes:
        feature_info: name, channels and stride of each level returned.
    """

    def __init__(self, feature: Feature, out_channels: int = 256, norm: str = "LN") -> None:
        super().__init__()
        self.feature = feature
        self.levels = nn.ModuleDict({_level(s): _simple_level(feature, s, out_channels, norm) for s in PYRAMID_STRIDES})
        strides = (*PYRAMID_STRIDES, 2 * PYRAMID_STRIDES[-1])
        self.feature_info = tuple(Feature(_level(s), out_channels, s) for s in strides)

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Stage maps, of which one is used, to levels ``[B, out_channels, H/s, W/s]``, finest first."""
        x = maps[self.feature.name]
        levels = {name: level(x) for name, level in self.levels.items()}
        return levels | {self.feature_info[-1].name: _pool_top(levels[self.feature_info[-2].name])}


def _simple_level(feature: Feature, stride: int, out_channels: int, norm: str) -> nn.Sequential:
    """Layers that bring a map to one stride: each doubling halves the channels (Li et al. 2022, appendix)."""
    layers: list[nn.Module] = []
    channels = feature.channels
    doublings = int(math.log2(feature.stride / stride))
    for i in range(doublings):
        layers.append(nn.ConvTranspose2d(channels, channels // 2, kernel_size=2, stride=2))
        channels //= 2
        if i < doublings - 1:
            layers += [*make_norm(norm, channels), nn.GELU()]
    if doublings < 0:
        layers.append(nn.MaxPool2d(kernel_size=2**-doublings, stride=2**-doublings))
    return nn.Sequential(
        *layers, ConvNorm(channels, out_channels, 1, norm), ConvNorm(out_channels, out_channels, 3, norm)
    )


def _pool_top(p5: Tensor) -> Tensor:
    """P6: every second position of P5, as detectron2's LastLevelMaxPool."""
    return F.max_pool2d(p5, kernel_size=1, stride=2)
