"""What the LazyConfigs in ``configs/lazy`` call beside detectron2's classes and ours: composition, and a ratio."""

from __future__ import annotations

from hiera_det.d2.model.backbone import HieraBackbone
from hiera_det.d2.model.backbone import freeze_at as freeze
from hiera_det.modeling.hiera import Hiera
from hiera_det.modeling.pyramid import FPN

__all__ = ["build_fpn_backbone", "warmup_length"]


def build_fpn_backbone(
    trunk: Hiera, out_channels: int = 256, norm: str = "LN", square_pad: int = 0, freeze_at: int = 0
) -> HieraBackbone:
    """Trunk and feature pyramid, ``p2`` ... ``p6``; the pyramid takes channels and strides from the trunk.

    Args:
        trunk: gives the stage maps.
        out_channels: channels of every level.
        norm: ``"LN"`` after each convolution of the pyramid, or ``""``.
        square_pad: side in pixels to pad images to; 0 pads to the next multiple of 32 only.
        freeze_at: see `hiera_det.d2.model.backbone.freeze_at`.
    """
    freeze(trunk, freeze_at)
    return HieraBackbone(trunk, FPN(trunk.feature_info, out_channels, norm), square_pad)


def warmup_length(iterations: int, max_iter: int) -> float:
    """The part of a training, at most all of it, that so many iterations of warm-up are."""
    return min(iterations / max_iter, 1.0)
