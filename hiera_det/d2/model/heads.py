"""Heads with LayerNorm (Hiera paper, appendix A.2, after ViTDet), for squares of padding, and FCOS by config.

detectron2 0.6 does not know the norm "LN" by name, but takes a callable: these heads translate the name and leave the
rest to their parents. Other norms pass through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, build_backbone
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY, StandardRPNHead
from detectron2.modeling.roi_heads.box_head import ROI_BOX_HEAD_REGISTRY, FastRCNNConvFCHead
from detectron2.modeling.roi_heads.mask_head import ROI_MASK_HEAD_REGISTRY, MaskRCNNConvUpsampleHead
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from hiera_det.modeling.pyramid import LayerNorm2d

__all__ = ["HieraBoxHead", "HieraFCOS", "HieraMaskHead", "HieraRPNHead", "HieraSemSegHead"]


def norm_by_name(name: str) -> str | Callable[[int], nn.Module]:
    """What ``get_norm`` of either detectron2 understands for a norm's name."""
    own: dict[str, Callable[[int], nn.Module]] = {"LN": LayerNorm2d, "GN": _group_norm}
    return own.get(name, name)


def _group_norm(channels: int) -> nn.Module:
    """As detectron2's; 0.6's RetinaNet head asks for one of a single channel, which PyTorch refuses by now."""
    return nn.GroupNorm(32 if channels % 32 == 0 else 1, channels)


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


@SEM_SEG_HEADS_REGISTRY.register()
class HieraSemSegHead(SemSegFPNHead):
    """detectron2's semantic head, whose targets may be smaller than the square that the backbone pads images to."""

    @configurable
    def __init__(self, input_shape: dict[str, ShapeSpec], *, norm: str = "", **kwargs: Any) -> None:
        super().__init__(input_shape=input_shape, norm=norm_by_name(norm), **kwargs)  # a LazyConfig's is like a config

    def losses(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The loss, without what lies beyond ``targets [B, H, W]``."""
        beyond = [self.common_stride * n - m for n, m in zip(predictions.shape[-2:], targets.shape[-2:], strict=True)]
        return super().losses(predictions, F.pad(targets, (0, beyond[1], 0, beyond[0]), value=self.ignore_value))


@META_ARCH_REGISTRY.register()
class HieraFCOS(FCOS):
    """detectron2's FCOS, which it has for LazyConfigs only, by the keys of ``MODEL.RETINANET``."""

    @configurable
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Translate the config."""
        keys, backbone = cfg.MODEL.RETINANET, build_backbone(cfg)
        shapes = [backbone.output_shape()[name] for name in keys.IN_FEATURES]
        conv_dims = [shapes[0].channels] * keys.NUM_CONVS
        shared = {"num_classes": keys.NUM_CLASSES}
        more = {"norm": norm_by_name(keys.NORM), "prior_prob": keys.PRIOR_PROB}
        head = FCOSHead(input_shape=shapes, conv_dims=conv_dims, **shared, **more)
        return shared | {
            "backbone": backbone,
            "head": head,
            "head_in_features": keys.IN_FEATURES,
            "focal_loss_alpha": keys.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": keys.FOCAL_LOSS_GAMMA,
            "test_score_thresh": keys.SCORE_THRESH_TEST,
            "test_topk_candidates": keys.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": keys.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def label_anchors(self, anchors: list[Boxes], gt_instances: list[Instances]) -> Any:
        """As detectron2's, which takes no image without objects: it gets a box of no size, in which no anchor lies."""
        return super().label_anchors(anchors, [found if len(found) else _nothing(found) for found in gt_instances])


def _nothing(found: Instances) -> Instances:
    device = found.gt_boxes.device
    boxes, classes = Boxes(torch.zeros(1, 4, device=device)), torch.zeros(1, dtype=torch.int64, device=device)
    return Instances(found.image_size, gt_boxes=boxes, gt_classes=classes)
