"""The whole detectors that the benchmark times, and the batch that it makes for them.

They are those of config files, ``vitdet-b`` (`hiera_det.d2.benchmark.vitdet`), and beside them stands
detectron2's own Mask R-CNN on ResNet-50 and FPN, from its model zoo's config, which keeps its stem and first stage
frozen as published. Images are never padded to ``MODEL.HIERA.SQUARE_PAD``: the benchmark's have the size to measure.

All weights are random, and with them the number of proposals and detections would be an accident that decides how much
work the heads have. So the last layers of RPN and box head are set: each proposal is an anchor and a candidate of one
class, suppression leaves the config's full number of detections (100) where the image has room for them, and all go
through the mask head, in every detector alike. That is more than a trained model finds in most images.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any

import detectron2
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import Tensor

from hiera_det.d2.benchmark.vitdet import VITDET_B, VITDET_SETTINGS, build_vitdet, check_vitdet
from hiera_det.d2.config.load import load_config
from hiera_det.d2.config.model_keys import is_hiera
from hiera_det.d2.model.recompute import recompute_parts
from hiera_det.d2.train.solver import build_optimizer
from hiera_det.d2.train.step import Step
from hiera_det.errors import InputError

__all__ = ["ZOO_CONFIG", "build_detector", "load_detector_config", "make_batch", "training_step"]

#: The model zoo of detectron2's package, and its config that ours stand beside.
ZOO = Path(detectron2.__file__).parent / "model_zoo" / "configs"
ZOO_CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
#: Objects per image: COCO has 7.3 on average.
OBJECTS = 7


def load_detector_config(config_file: str, device: str, compiled: bool = False) -> CfgNode:
    """A detector's config, with random weights and a learning rate that leaves them alone.

    Args:
        config_file: a YAML file, `ZOO_CONFIG` or `VITDET_B`.
        device: ``cpu`` or ``cuda``.
        compiled: have the trunk compiled.

    Raises:
        InputError: the name is none, or the detector cannot be built here.
    """
    if config_file == VITDET_B:
        cfg = load_config("")
        cfg.merge_from_list(VITDET_SETTINGS)
    elif config_file == ZOO_CONFIG:
        cfg = load_config(str(ZOO / ZOO_CONFIG))
        cfg.SOLVER.OPTIMIZER = "SGD"  # the zoo's configs know no other
    else:
        cfg = load_config(config_file)
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE, cfg.SOLVER.BASE_LR = "", device, 0.0
    cfg.MODEL.HIERA.SQUARE_PAD, cfg.MODEL.HIERA.COMPILE = 0, compiled
    if (cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NAME) != ("GeneralizedRCNN", "StandardROIHeads"):
        raise InputError(f"--config-files {config_file}: no Mask R-CNN; name a config of one, or {VITDET_B}")
    if compiled and not is_hiera(cfg.MODEL.BACKBONE.NAME):
        raise InputError(f"--config-files {config_file}+compile: only Hiera trunks are compiled; leave +compile out")
    if config_file == VITDET_B:
        check_vitdet()
    return cfg


def build_detector(cfg: CfgNode, image: tuple[int, int]) -> tuple[Any, torch.optim.Optimizer]:
    """The model of a `load_detector_config` for images of that height and width, and its optimizer."""
    torch.manual_seed(0)
    module = build_model(cfg) if cfg.MODEL.BACKBONE.NAME != VITDET_B else build_vitdet(cfg, max(image))
    recompute_parts(module, cfg)
    _set_predictions(module)
    return module, build_optimizer(cfg, module)


def _set_predictions(module: Any) -> None:
    """Let proposals be anchors, detections proposals, and all of one class above the configs' threshold of 0.05."""
    predictor = module.roi_heads.box_predictor
    with torch.no_grad():
        for layer in (module.proposal_generator.rpn_head.anchor_deltas, predictor.bbox_pred, predictor.cls_score):
            layer.weight.zero_()
            layer.bias.zero_()
        predictor.cls_score.bias[0] = 3.0  # of 80 classes and background: e^3 / (e^3 + 80) = 0.2


def make_batch(cfg: Any, height: int, width: int, batch: int) -> list[dict[str, Any]]:
    """Images of noise with objects at random places, as detectron2's data loader gives them."""
    generator = torch.Generator().manual_seed(0)
    items = []
    for _ in range(batch):
        boxes = _random_boxes(height, width, generator)
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(boxes)
        instances.gt_classes = torch.randint(cfg.MODEL.ROI_HEADS.NUM_CLASSES, (OBJECTS,), generator=generator)
        instances.gt_masks = PolygonMasks([[_diamond(box)] for box in boxes])
        image = torch.randint(256, (len(cfg.MODEL.PIXEL_MEAN), height, width), generator=generator, dtype=torch.uint8)
        items.append({"image": image, "height": height, "width": width, "instances": instances})
    return items


def _random_boxes(height: int, width: int, generator: torch.Generator) -> Tensor:
    """Boxes ``[OBJECTS, 4]`` in XYXY of a tenth to half of the image's sides, inside it."""
    image = torch.tensor([width, height])
    sides = (0.1 + 0.4 * torch.rand(OBJECTS, 2, generator=generator)) * image
    corners = torch.rand(OBJECTS, 2, generator=generator) * (image - sides)
    return torch.cat([corners, corners + sides], dim=1)


def _diamond(box: Tensor) -> Any:
    """The polygon through the middles of a box's sides: x, y in turn."""
    left, top, right, bottom = box.double().tolist()
    across, down = (left + right) / 2, (top + bottom) / 2
    return torch.tensor([across, top, right, down, across, bottom, left, down], dtype=torch.float64).numpy()


def training_step(
    module: Any, inputs: list[dict[str, Any]], optimizer: torch.optim.Optimizer, precision: str
) -> Callable[[], None]:
    """The step of the trainer, with the optimizer's update; gradients are gone afterwards."""
    trainer = Step(module, repeat(inputs), optimizer, precision=precision)

    def step() -> None:
        with EventStorage():  # where losses and detectron2's heads write their statistics
            trainer.run_step()
        optimizer.zero_grad(set_to_none=True)

    return step
