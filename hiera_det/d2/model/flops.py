"""Counting a detector's multiply-adds, the "FLOPs" of detection papers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hiera_det.d2.config.setup import load_config

__all__ = ["count_detector", "flops_table"]


def count_detector(cfg: CfgNode, height: int, width: int, proposals: int = 1000, masks: int = 100) -> dict[str, float]:
    """Multiply-adds of one image through a Mask R-CNN, attention counted.

    Nothing is computed: the model lives on the meta device. Convolutions, matrix products and attention are counted,
    as in the papers; norms, activations, the pooling of regions and their suppression are not.

    Args:
        cfg: the detector's config.
        height: image height in pixels, a multiple of 32.
        width: image width in pixels, a multiple of 32.
        proposals: regions through the box head.
        masks: regions through the mask head.

    Returns:
        multiply-adds by part: ``trunk``, ``neck``, ``rpn``, ``box head``, ``mask head`` and ``total``.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    cfg.MODEL.HIERA.COMPILE = False  # compiled code is not seen by the counter
    with torch.device("meta"):
        model = build_model(cfg).eval()
        backbone, heads = model.backbone, model.roi_heads
        images = torch.zeros(1, backbone.trunk.in_channels, height, width)
        with torch.no_grad():
            maps = backbone.trunk(images)
            levels = backbone.neck(maps)
            channels = next(iter(levels.values())).shape[1]
            box_side, mask_side = cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION, cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION
            boxes = torch.zeros(proposals, channels, box_side, box_side)
            regions = torch.zeros(masks, channels, mask_side, mask_side)
            counts = {
                "trunk": _count(backbone.trunk, images),
                "neck": _count(backbone.neck, maps),
                "rpn": _count(model.proposal_generator.rpn_head, [levels[name] for name in cfg.MODEL.RPN.IN_FEATURES]),
                "box head": sum(_count(stage, boxes) for stage in _box_stages(heads)),
                "mask head": _count(_layers(heads.mask_head), regions),
            }
    return counts | {"total": sum(counts.values())}


def _box_stages(heads: Any) -> list[nn.Module]:
    """Box head and predictor: one pair, or those of a cascade."""
    if isinstance(heads.box_head, nn.ModuleList):
        return [nn.Sequential(*pair) for pair in zip(heads.box_head, heads.box_predictor, strict=True)]
    return [nn.Sequential(heads.box_head, heads.box_predictor)]


def _count(module: nn.Module, inputs: object) -> float:
    """Multiply-adds of one call; PyTorch counts each as two."""
    with FlopCounterMode(display=False) as counter:
        module(inputs)
    return counter.get_total_flops() / 2


def _layers(head: nn.Module) -> nn.Module:
    """The mask head's own layers: its forward wants instances too."""
    return nn.Sequential(*head.children())


def flops_table(configs: Sequence[str], height: int, width: int) -> str:
    """Multiply-adds of the detectors of config files as a Markdown table."""
    rows = {Path(config).stem: count_detector(load_config(config), height, width) for config in configs}
    parts = list(next(iter(rows.values())))
    return "\n".join(
        (
            f"multiply-adds in T at {height}x{width}, attention counted, 1000 proposals, 100 masks\n",
            f"| config | {' | '.join(parts)} |\n|{'---|' * (len(parts) + 1)}",
            *(
                f"| {name} | {' | '.join(f'{counts[part] / 1e12:.3f}' for part in parts)} |"
                for name, counts in rows.items()
            ),
        )
    )
