"""Counting a detector's multiply-adds, the "FLOPs" of detection papers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hiera_det.d2.config.setup import load_config
from hiera_det.d2.model.recompute import recompute_parts

__all__ = ["build_shell", "count_detector", "detector_parts", "flops_table"]


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
        multiply-adds by part, as in `detector_parts`, and ``total``.
    """
    model = build_shell(cfg)
    with torch.device("meta"), torch.no_grad():
        images = torch.zeros(1, len(cfg.MODEL.PIXEL_MEAN), height, width)
        parts = detector_parts(model, images, proposals, masks)
        counts = {name: _count(module, inputs) for name, (module, inputs) in parts.items()}
    return counts | {"total": sum(counts.values())}


def build_shell(cfg: CfgNode) -> Any:
    """The detector in evaluation mode without data, and not compiled: counters do not see into compiled code."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE, cfg.MODEL.HIERA.COMPILE = "meta", False
    with torch.device("meta"):
        model = build_model(cfg).eval()
    recompute_parts(model, cfg)
    return model


def detector_parts(model: Any, images: Tensor, proposals: int, masks: int) -> dict[str, tuple[nn.Module, Any]]:
    """The parts of a Mask R-CNN that compute in layers, each with an input.

    Args:
        model: of `build_shell`.
        images: ``[B, C, H, W]`` on the meta device.
        proposals: regions of all images through the box head.
        masks: regions of all images through the mask head.

    Returns:
        module and input of ``trunk`` and ``neck``, or of a ``backbone`` that is no Hiera; of ``rpn``, ``box head`` and
        ``mask head``.
    """
    backbone, heads = model.backbone, model.roi_heads
    if hasattr(backbone, "trunk"):
        maps = backbone.trunk(images)
        levels = backbone.neck(maps)
        parts: dict[str, tuple[nn.Module, Any]] = {"trunk": (backbone.trunk, images), "neck": (backbone.neck, maps)}
    else:
        levels = backbone(images)
        parts = {"backbone": (backbone, images)}
    rpn, box_pooler, mask_pooler = model.proposal_generator, heads.box_pooler, heads.mask_pooler
    channels = levels[heads.box_in_features[0]].shape[1]
    boxes = images.new_zeros(proposals, channels, *box_pooler.output_size)
    regions = images.new_zeros(masks, channels, *mask_pooler.output_size)
    return parts | {
        "rpn": (rpn.rpn_head, [levels[name] for name in rpn.in_features]),
        "box head": (_Stages(_box_stages(heads)), boxes),
        "mask head": (_Layers(heads.mask_head), regions),
    }


class _Layers(nn.Module):
    """A mask head without its losses, for which its forward wants instances."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head = head

    def forward(self, regions: Tensor) -> Any:
        return self.head.layers(regions)


class _Stages(nn.Module):
    """Runs each stage of a cascade's box head on the same regions."""

    def __init__(self, stages: list[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, boxes: Tensor) -> list[Any]:
        return [stage(boxes) for stage in self.stages]


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
