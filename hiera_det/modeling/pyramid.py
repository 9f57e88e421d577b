"""Necks: the feature pyramid over four stages (Lin et al. 2017) and ViTDet's simple pyramid (Li et al. 2022, sec. 3).

Both take the trunk's dict of maps and return ``p2`` ... ``p5`` at strides 4 ... 32, and above them ``p6`` by
max-pooling ``p5``, or ``p6`` and ``p7`` by convolutions as in RetinaNet and FCOS. What only unwanted levels would need
is not built, so that every parameter has a gradient. The FPN is the Hiera paper's choice (appendix A.2). Letters: B
images, C channels, H and W in pixels.
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
#: How many levels stand above the coarsest stage's: p6 by max-pool, or p6 and p7 by convolutions of stride 2.
TOPS = {"pool": 1, "conv": 2}


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


class _Pyramid(nn.Module):
    """What the necks share: which levels there are, and those above the coarsest stage's.

    Args:
        strides: of the levels that stand on stages, each twice the one before.
        out_channels: channels of every level.
        levels: the levels to return, by name; empty for all.
        top: ``"pool"`` or ``"conv"``.

    Attributes:
        feature_info: name, channels and stride of each level returned, finest first.
    """

    def __init__(self, strides: Sequence[int], out_channels: int, levels: Sequence[str], top: str) -> None:
        super().__init__()
        if top not in TOPS:
            raise InputError(f"pyramid top {top!r}: choose one of {', '.join(TOPS)}")
        there = {_level(stride): stride for stride in (strides[0] << i for i in range(len(strides) + TOPS[top]))}
        if isinstance(levels, str) or any(name not in there for name in levels):
            more = "" if top == "conv" else "; p6 and p7 with the top conv"
            raise InputError(f"pyramid levels {levels!r}: give some of {', '.join(there)}{more}")
        wanted = [name for name in there if not levels or name in levels]
        self.feature_info = tuple(Feature(name, out_channels, there[name]) for name in wanted)
        standing, above = [*there][: len(strides)], [*there][len(strides) :]
        above = above[: 1 + above.index(wanted[-1])] if wanted[-1] in above else []
        #: The levels that stand on stages, of those that are computed.
        self.standing = [name for name in standing if name in wanted or (above and name == standing[-1])]
        self.top = nn.ModuleDict({name: _top_level(out_channels, top) for name in above})

    def _finish(self, levels: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the levels above, and leave out those that nobody asked for."""
        x = levels[self.standing[-1]]
        for i, (name, layer) in enumerate(self.top.items()):
            x = levels[name] = layer(F.relu(x) if i else x)
        return {feature.name: levels[feature.name] for feature in self.feature_info}


class FPN(_Pyramid):
    """Feature pyramid: lateral 1x1 convolutions, top-down sums, 3x3 output convolutions.

    Args:
        features: the trunk's ``feature_info``; strides must double from one to the next.
        out_channels: channels of every level.
        norm: ``"LN"`` after each convolution, or ``""``.
        levels: the levels to return, such as ``("p3", "p4", "p5")``; empty for all.
        top: ``"pool"`` for ``p6`` by max-pool, as in Mask R-CNN; ``"conv"`` for ``p6`` and ``p7`` by convolutions of
            stride 2 from ``p5``, as in RetinaNet and FCOS.

    Attributes:
        feature_info: name, channels and stride of each level returned, finest first.
        features: the stages that it looks at.

    Raises:
        InputError: strides that do not double, an unknown norm, level or top.
    """

    def __init__(
        self,
        features: Sequence[Feature],
        out_channels: int = 256,
        norm: str = "LN",
        levels: Sequence[str] = (),
        top: str = "pool",
    ) -> None:
        features = sorted(features, key=lambda feature: feature.stride)
        strides = [feature.stride for feature in features]
        if any(high != 2 * low for low, high in itertools.pairwise(strides)):
            raise InputError(f"FPN over strides {strides}: each must be twice the one before")
        super().__init__(strides, out_channels, levels, top)
        finest = [_level(stride) for stride in strides].index(self.standing[0])
        self.features = tuple(features[finest:])
        laterals = {_level(f.stride): ConvNorm(f.channels, out_channels, 1, norm) for f in self.features}
        self.lateral = nn.ModuleDict(laterals)
        self.output = nn.ModuleDict({name: ConvNorm(out_channels, out_channels, 3, norm) for name in self.standing})

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Stage maps to levels ``[B, out_channels, H/s, W/s]``, finest first; other entries of ``maps`` are ignored."""
        levels: dict[str, Tensor] = {}
        merged: Tensor | None = None
        for feature in reversed(self.features):
            name = _level(feature.stride)
            lateral = self.lateral[name](maps[feature.name])
            merged = lateral if merged is None else lateral + F.interpolate(merged, scale_factor=2.0, mode="nearest")
            if name in self.standing:
                levels[name] = self.output[name](merged)
        return self._finish(levels)


class SimpleFeaturePyramid(_Pyramid):
    """ViTDet's pyramid from one map: transposed convolutions up, max-pool down, then 1x1 and 3x3 convolutions.

    A trunk that serves it alone needs ``out_features`` of that stage only: later stages would get no gradient.

    Args:
        feature: the stage to start from; ViTDet uses stride 16, which is Hiera's ``stage3``.
        out_channels: channels of every level.
        norm: ``"LN"`` or ``""``.
        levels: as in `FPN`.
        top: as in `FPN`.

    Attributes:
        feature_info: name, channels and stride of each level returned, finest first.

    Raises:
        InputError: an unknown norm, level or top.
    """

    def __init__(
        self,
        feature: Feature,
        out_channels: int = 256,
        norm: str = "LN",
        levels: Sequence[str] = (),
        top: str = "pool",
    ) -> None:
        super().__init__(PYRAMID_STRIDES, out_channels, levels, top)
        self.feature = feature
        strides = [stride for stride in PYRAMID_STRIDES if _level(stride) in self.standing]
        self.levels = nn.ModuleDict({_level(s): _simple_level(feature, s, out_channels, norm) for s in strides})

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Stage maps, of which one is used, to levels ``[B, out_channels, H/s, W/s]``, finest first."""
        x = maps[self.feature.name]
        return self._finish({name: level(x) for name, level in self.levels.items()})


def _top_level(channels: int, top: str) -> nn.Module:
    """A level of twice the stride: every second position, as detectron2's LastLevelMaxPool, or a 3x3 convolution."""
    if top == "pool":
        return nn.MaxPool2d(kernel_size=1, stride=2)
    conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


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
