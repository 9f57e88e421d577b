"""ViTDet-B as the benchmark times it: Mask R-CNN on a plain ViT-B (Li et al. 2022).

Every layer is detectron2's own; ViT and its pyramid are in the main branch only. The values are those of that branch's
``configs/common/models/mask_rcnn_vitdet.py``. Two things follow the benchmark's images, and are the same at 1024x1024:
the tables of relative positions have their size, and they are not padded to a square.
"""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import detectron2.modeling
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, build_proposal_generator, build_roi_heads
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn

from hiera_det.errors import InputError

__all__ = ["VITDET_B", "VITDET_SETTINGS", "build_vitdet", "check_vitdet"]

#: What stands for it in --config-files, and for the name of a backbone.
VITDET_B = "vitdet-b"
#: Over detectron2's defaults: input, RPN and heads of ViTDet's Mask R-CNN, keys and values in turn.
VITDET_SETTINGS = (
    *("MODEL.BACKBONE.NAME", VITDET_B),
    *("MODEL.MASK_ON", "True", "INPUT.FORMAT", "RGB"),
    *("MODEL.PIXEL_MEAN", "[123.675, 116.28, 103.53]", "MODEL.PIXEL_STD", "[58.395, 57.12, 57.375]"),
    *("MODEL.ANCHOR_GENERATOR.SIZES", "[[32], [64], [128], [256], [512]]"),
    *("MODEL.RPN.IN_FEATURES", "['p2', 'p3', 'p4', 'p5', 'p6']", "MODEL.RPN.CONV_DIMS", "[-1, -1]"),
    *("MODEL.RPN.PRE_NMS_TOPK_TRAIN", "2000", "MODEL.RPN.POST_NMS_TOPK_TRAIN", "1000"),
    *("MODEL.RPN.PRE_NMS_TOPK_TEST", "1000", "MODEL.RPN.POST_NMS_TOPK_TEST", "1000"),
    *("MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", "['p2', 'p3', 'p4', 'p5']"),
    *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "7"),
    *("MODEL.ROI_BOX_HEAD.NUM_CONV", "4", "MODEL.ROI_BOX_HEAD.NUM_FC", "1", "MODEL.ROI_BOX_HEAD.NORM", "LN"),
    *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead", "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", "14"),
    *("MODEL.ROI_MASK_HEAD.NUM_CONV", "4", "MODEL.ROI_MASK_HEAD.NORM", "LN"),
    *("SOLVER.OPTIMIZER", "ADAMW"),
)
DEPTH = 12
GLOBAL_BLOCKS = (2, 5, 8, 11)


def check_vitdet() -> None:
    """Refuse ViTDet where what it is made of is missing."""
    if not hasattr(detectron2.modeling, "ViT"):
        raise InputError(
            f"--config-files {VITDET_B}: detectron2 0.6 has no ViT; install detectron2's main branch, or leave it out"
        )
    try:
        importlib.import_module("timm.models.layers")  # detectron2's ViT takes its MLP from there
    except ImportError as error:
        raise InputError(
            f"--config-files {VITDET_B}: detectron2's ViT needs timm with timm.models.layers ({error}); "
            "pip install timm, or leave it out"
        ) from None


def build_vitdet(cfg: CfgNode, image_side: int) -> nn.Module:
    """The detector on the config's device; ``image_side`` is the longer one of its images, in pixels."""
    backbone = _build_backbone(image_side)
    shapes = backbone.output_shape()
    detector: nn.Module = GeneralizedRCNN(
        backbone=backbone,
        proposal_generator=build_proposal_generator(cfg, shapes),
        roi_heads=build_roi_heads(cfg, shapes),
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
        input_format=cfg.INPUT.FORMAT,
    )
    return detector.to(cfg.MODEL.DEVICE)


def _build_backbone(image_side: int) -> Any:
    """ViT-B with windows of 14 but for four global blocks, and the simple feature pyramid ``p2`` ... ``p6`` over it."""
    from detectron2.modeling import SimpleFeaturePyramid, ViT

    vit = ViT(
        img_size=image_side,
        patch_size=16,
        embed_dim=768,
        depth=DEPTH,
        num_heads=12,
        mlp_ratio=4,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        drop_path_rate=0.1,
        use_rel_pos=True,
        window_size=14,
        window_block_indexes=[block for block in range(DEPTH) if block not in GLOBAL_BLOCKS],
        out_feature="last_feat",
    )
    return SimpleFeaturePyramid(
        vit,
        in_feature="last_feat",
        out_channels=256,
        scale_factors=(4.0, 2.0, 1.0, 0.5),
        top_block=LastLevelMaxPool(),
        norm="LN",
    )
