"""LazyConfigs: translation only. What the files in ``configs/lazy`` call beside detectron2 and our classes is here."""

from __future__ import annotations

from collections.abc import Sequence

from hiera_det.d2.model.backbone import HieraBackbone
from hiera_det.d2.model.backbone import freeze_at as freeze
from hiera_det.modeling.hiera import Hiera
from hiera_det.modeling.pyramid import FPN

__all__ = ["build_fpn_backbone", "warmup_length"]


def build_fpn_backbone(
    trunk: Hiera,
    out_channels: int = 256,
    norm: str = "LN",
    square_pad: int = 0,
    freeze_at: int = 0,
    levels: Sequence[str] = (),
    top: str = "pool",
) -> HieraBackbone:
    """Trunk and feature pyramid; the arguments are the YAML configs' keys of the same names, and those of `FPN`."""
    freeze(trunk, freeze_at)
    return HieraBackbone(trunk, FPN(trunk.feature_info, out_channels, norm, list(levels), top), square_pad)


def warmup_length(iterations: int, max_iter: int) -> float:
    """The part of a training, at most all of it, that so many iterations of warm-up are."""
    return min(iterations / max_iter, 1.0)
