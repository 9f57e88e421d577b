"""detectron2's own zoo with our backbone in place of its own, by one line: YAML files and LazyConfigs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import detectron2
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
from detectron2.utils.events import EventStorage

from hiera_det import add_hiera_config
from hiera_det.d2.lazy import build_fpn_backbone
from hiera_det.zoo import build_hiera

ZOO = Path(detectron2.__file__).parent / "model_zoo" / "configs"
YAML = {
    "COCO-Detection/faster_rcnn_R_50_FPN_1x": ["p2", "p3", "p4", "p5", "p6"],
    "COCO-Detection/retinanet_R_50_FPN_1x": ["p3", "p4", "p5", "p6", "p7"],
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x": ["p2", "p3", "p4", "p5", "p6"],
    "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x": ["p2", "p3", "p4", "p5", "p6"],
    "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x": ["p2", "p3", "p4", "p5", "p6"],
    "Misc/cascade_mask_rcnn_R_50_FPN_1x": ["p2", "p3", "p4", "p5", "p6"],
    "Misc/semantic_R_50_FPN_1x": ["p2", "p3", "p4", "p5"],
}
LAZY = ("mask_rcnn_fpn", "cascade_rcnn", "keypoint_rcnn_fpn", "panoptic_fpn", "retinanet", "fcos")
TINY: dict[str, Any] = {
    "embed_dim": 16,
    "depths": (1, 1, 1, 1),
    "out_features": ("stage1", "stage2", "stage3", "stage4"),
}


def sample() -> dict[str, object]:
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.tensor([[4.0, 4.0, 40.0, 44.0]]))
    instances.gt_classes = torch.tensor([0])
    instances.gt_masks = BitMasks(torch.ones(1, 64, 64, dtype=torch.bool))
    instances.gt_keypoints = Keypoints(torch.full((1, 17, 3), 20.0))
    image = torch.randint(0, 255, (3, 64, 64)).float()
    return {"image": image, "instances": instances, "sem_seg": torch.zeros(64, 64).long(), "height": 64, "width": 64}


def check(model: Any) -> None:
    """A step gives every parameter a gradient, as DDP wants it, and a test an output."""
    with EventStorage():
        loss = sum(model.train()([sample()]).values())
    loss.backward()
    assert torch.isfinite(loss)
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    with torch.inference_mode():
        assert len(model.eval()([sample()])) == 1


@pytest.mark.parametrize("name", YAML)
def test_a_yaml_file_of_the_zoo_takes_the_backbone(name: str) -> None:
    cfg = get_cfg()
    add_hiera_config(cfg)
    cfg.merge_from_file(str(ZOO / f"{name}.yaml"), allow_unsafe=True)
    cfg.MODEL.BACKBONE.NAME = "build_hiera_fpn_backbone"  # the one line
    cfg.MODEL.DEVICE, cfg.MODEL.HIERA.EMBED_DIM, cfg.MODEL.HIERA.DEPTHS = "cpu", 16, [1, 1, 1, 1]
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = [16]
    cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32, 16
    model = build_model(cfg)
    assert list(model.backbone.output_shape()) == YAML[name]
    check(model)


@pytest.mark.parametrize("name", LAZY)
def test_a_lazy_config_of_the_zoo_takes_the_backbone(name: str) -> None:
    model = LazyConfig.load(str(ZOO / "common" / "models" / f"{name}.py")).model
    dense = {"levels": ["p3", "p4", "p5", "p6", "p7"], "top": "conv"} if name in ("retinanet", "fcos") else {}
    model.backbone = L(build_fpn_backbone)(trunk=L(build_hiera)(size="tiny", **TINY), out_channels=256, **dense)
    if name == "keypoint_rcnn_fpn":
        model.roi_heads.keypoint_head.conv_dims = [16]
    if name == "fcos":
        model.head.norm = ""  # 0.6 asks for a group norm of one channel, which PyTorch refuses by now
    check(instantiate(model))
