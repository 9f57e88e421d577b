"""Mask R-CNN's heads with LayerNorm (Hiera paper, appendix A.2, after ViTDet).

detectron2 0.6 does not know the norm "LN" by name, but takes a callable: these heads translate the name and leave the
rest to their parents. Other norms pass through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY, StandardRPNHead
from detectron2.modeling.roi_heads.box_head import ROI_BOX_HEAD_REGISTRY, FastRCNNConvFCHead
from detectron2.modeling.roi_heads.mask_head import ROI_MASK_HEAD_REGISTRY, MaskRCNNConvUpsampleHead
from torch import nn

from hiera_det.modeling.pyramid import LayerNorm2d

__all__ = ["HieraBoxHead", "HieraMaskHead", "HieraRPNHead"]


def norm_by_name(name: str) -> str | Callable[[int], nn.Module]:
    """What ``get_norm`` of either detectron2 understands for a norm's name."""
    return LayerNorm2d if name == "LN" else name


@ROI_BOX_HEAD_REGISTRY.register()
class HieraBoxHead(FastRCNNConvFCHead):
    """detectron2's convolutional box head; ``conv_norm``, ``MODEL.ROI_BOX_HEAD.NORM``, may be "LN"."""

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, conv_norm: str = "", **kwargs: Any) -> None:
        super().__init__(input_shape, conv_norm=norm_by_name(conv_norm), **kwargs)


@ROI_MASK_HEAD_REGISTRY.register()
class HieraMaskHead(MaskRCNNConvUpsampleHead):
    """detectron2's mask head; ``conv_norm``, ``MODEL.ROI_MASK_HEAD.NORM``, may be "LN"."""

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, conv_norm: str = "", **kwargs: Any) -> None:
        super().__init__(input_shape, conv_norm=norm_by_name(conv_norm), **kwargs)


@RPN_HEAD_REGISTRY.register()
class HieraRPNHead(StandardRPNHead):
    """detectron2's RPN head with a norm, ``MODEL.RPN.NORM``, after each hidden convolution."""

    @configurable
    def __init__(self, *, norm: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not norm:
            return
        for conv in self.conv.modules():
            if isinstance(conv, Conv2d):
                conv.norm = get_norm(norm_by_name(norm), conv.out_channels)
                conv.bias = None  # the norm has its own

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Any) -> dict[str, Any]:
        """Translate the config."""
        return super().from_config(cfg, input_shape) | {"norm": cfg.MODEL.RPN.NORM}
