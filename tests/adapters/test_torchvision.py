"""The trunk in torchvision's detectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from hiera_det import hiera_tiny
from hiera_det.adapters.torchvision import (
    HieraFPNBackbone,
    fasterrcnn_hiera,
    fcos_hiera,
    keypointrcnn_hiera,
    maskrcnn_hiera,
    retinanet_hiera,
)

BACKBONE = {"embed_dim": 16, "depths": (1, 1, 2, 1), "out_channels": 32}
SMALL = {"backbone": BACKBONE, "min_size": 64, "max_size": 96}
SAMPLED = {"box_batch_size_per_image": 16, "rpn_post_nms_top_n_train": 50}
DETECTORS = [
    (fasterrcnn_hiera, SAMPLED),
    (maskrcnn_hiera, SAMPLED),
    (keypointrcnn_hiera, SAMPLED),
    (retinanet_hiera, {}),
    (fcos_hiera, {}),
]


def light(build: Callable[..., Any], options: dict[str, Any]) -> Any:
    """A detector of two classes with heads that take milliseconds."""
    model = build("tiny", 3, **(SMALL | options))
    if build is maskrcnn_hiera:
        model.roi_heads.mask_head = MaskRCNNHeads(32, (16,), 1)
        model.roi_heads.mask_predictor = MaskRCNNPredictor(16, 16, 3)
    if build is keypointrcnn_hiera:
        model.roi_heads.keypoint_head = KeypointRCNNHeads(32, (16,))
        model.roi_heads.keypoint_predictor = KeypointRCNNPredictor(16, 2)
    return model


def samples() -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Two images of different sizes, a bright object in each."""
    images, targets = [], []
    for height, width in ((60, 90), (80, 64)):
        image, mask = torch.rand(3, height, width) / 2, torch.zeros(1, height, width, dtype=torch.uint8)
        image[:, 20:50, 10:40] = 1.0
        mask[:, 20:50, 10:40] = 1
        keypoints = torch.tensor([[[12.0, 22.0, 1.0], [30.0, 40.0, 1.0]]])
        boxes, labels = torch.tensor([[10.0, 20.0, 40.0, 50.0]]), torch.tensor([2])
        images.append(image)
        targets.append({"boxes": boxes, "labels": labels, "masks": mask, "keypoints": keypoints})
    return images, targets


@pytest.mark.parametrize(("build", "options"), DETECTORS, ids=lambda value: getattr(value, "__name__", ""))
def test_every_detector_learns_and_finds(build: Callable[..., Any], options: dict[str, Any]) -> None:
    model = light(build, options)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    images, targets = samples()
    losses = []
    for step in range(10):
        loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    found = model.eval()(images)
    assert all(len(each["boxes"]) == len(each["labels"]) == len(each["scores"]) for each in found)


def test_the_maps_are_the_trunks_own() -> None:
    trunk = hiera_tiny(embed_dim=16, depths=(1, 1, 2, 1)).eval()
    backbone = HieraFPNBackbone(trunk, out_channels=32).eval()
    images = torch.randn(1, 3, 64, 96)
    expected = backbone.fpn.neck(trunk(images))
    found = backbone(images)
    assert [*found] == ["0", "1", "2", "3", "pool"]
    assert all(torch.equal(one, other) for one, other in zip(found.values(), expected.values(), strict=True))
    one_stage = HieraFPNBackbone(trunk, levels=("p3", "p4", "p5", "p6", "p7"), top="conv")
    assert [*one_stage(images)] == ["0", "1", "2", "p6", "p7"]
    assert [*HieraFPNBackbone(trunk, levels=("p4", "p6"))(images)] == ["0", "pool"]


def test_the_backbone_fits_torchvisions_own_defaults() -> None:
    model = FasterRCNN(HieraFPNBackbone("tiny", **BACKBONE), 3, min_size=64, max_size=96, **SAMPLED)
    assert torch.isfinite(sum(model(*samples()).values()))


def test_images_are_normalised_and_padded_as_the_trunk_wants() -> None:
    model = light(fcos_hiera, {"backbone": BACKBONE | {"mask_unit_size": 16}})
    batch, _ = model.transform([torch.rand(3, 64, 80)])
    assert batch.tensors.shape == (1, 3, 64, 128)
    trunk = model.backbone.fpn.trunk
    grey, _ = model.transform([torch.tensor(trunk.pixel_mean).view(3, 1, 1).expand(3, 64, 80) / 255])
    torch.testing.assert_close(grey.tensors, torch.zeros(1, 3, 64, 128), atol=1e-5, rtol=0)


def test_anchors_fit_the_levels() -> None:
    sizes = light(fasterrcnn_hiera, {"backbone": BACKBONE | {"levels": ("p2", "p3", "p4", "p5")}}).rpn.anchor_generator
    assert sizes.sizes == ((32,), (64,), (128,), (256,))
    assert light(retinanet_hiera, {}).anchor_generator.sizes[0] == (32, 40, 50)
    assert light(fcos_hiera, {}).anchor_generator.sizes == ((8,), (16,), (32,), (64,), (128,))
    own = AnchorGenerator(((16, 32),) * 5, ((1.0,),) * 5)
    model = light(fasterrcnn_hiera, {"rpn_anchor_generator": own})
    assert model.rpn.anchor_generator is own
    assert torch.isfinite(sum(model(*samples()).values()))
