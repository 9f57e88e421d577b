"""The whole detectors that tools/benchmark.py times, and the batch that it makes for them.

A detector's name is a config file, or ``vitdet-b`` (hiera_det/benchmark/vitdet.py), or the config file of a Hiera trunk
with ``+compile`` after it: that trunk under torch.compile, as ``MODEL.HIERA.COMPILE`` does it. Beside them stands
detectron2's own Mask R-CNN on ResNet-50 and FPN, from its model zoo's config, which keeps its stem and first stage
frozen as published. Images are never padded to ``MODEL.HIERA.SQUARE_PAD``: the benchmark's have the size to measure.

All weights are random, and with them the number of proposals and detections would be an accident that decides how much
work the heads have. So the last layers of RPN and box head are set: each proposal is an anchor and a candidate of one
class, suppression leaves the config's full number of detections (100) where the image has room for them, and all go
through the mask head, in every detector alike. That is more than a trained model finds in most images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hiera_det.benchmark.models import COMPILED
from hiera_det.benchmark.vitdet import VITDET_B, VITDET_SETTINGS, build_vitdet, check_vitdet
from hiera_det.errors import InputError

__all__ = ["ZOO_CONFIG", "build_detector", "compiled_twins", "load_detector_config", "make_batch", "require_detectron2"]

#: detectron2's own, in its package's model zoo.
ZOO_CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
#: Objects per image: COCO has 7.3 on average.
OBJECTS = 7


def require_detectron2() -> None:
    """Refuse a detector task where detectron2 is missing; its message says how to install it."""
    try:
        import hiera_det.d2  # noqa: F401  registers
    except ImportError as error:
        raise InputError(f"--task: {error}") from None


def load_detector_config(name: str, device: str) -> Any:
    """A detector's config, with random weights and a learning rate that leaves them alone.

    Raises:
        InputError: the name is none, or the detector cannot be built here.
    """
    from hiera_det.d2.config.setup import load_config

    config_file = name.removesuffix(COMPILED)
    changes = ["MODEL.WEIGHTS", "", "MODEL.DEVICE", device, "SOLVER.BASE_LR", "0.0", "MODEL.HIERA.SQUARE_PAD", "0"]
    changes += ["MODEL.HIERA.COMPILE", str(name.endswith(COMPILED))]
    if config_file == VITDET_B:
        cfg = load_config("", [*VITDET_SETTINGS, *changes])
    elif config_file == ZOO_CONFIG:
        # The zoo's configs know no other optimizer.
        cfg = load_config(_zoo_file(ZOO_CONFIG), [*changes, "SOLVER.OPTIMIZER", "SGD"])
    else:
        cfg = load_config(config_file, changes)
    if (cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NAME) != ("GeneralizedRCNN", "StandardROIHeads"):
        raise InputError(f"--config-files {config_file}: no Mask R-CNN; name a config of one, or {VITDET_B}")
    if name.endswith(COMPILED) and not _is_ours(cfg):
        raise InputError(f"--config-files {name}: only Hiera trunks are compiled; leave {COMPILED} out")
    if config_file == VITDET_B:
        check_vitdet()
    return cfg


def _zoo_file(name: str) -> str:
    """Path of a config in the model zoo of detectron2's package."""
    import detectron2

    return str(Path(detectron2.__file__).parent / "model_zoo" / "configs" / name)


def _is_ours(cfg: Any) -> bool:
    """Whether the trunk is this project's, which alone heeds ``MODEL.HIERA.COMPILE``."""
    return str(cfg.MODEL.BACKBONE.NAME).startswith("build_hiera_")


def compiled_twins(names: Sequence[str], device: str) -> list[str]:
    """The names, and after each of this project's trunks the same one compiled."""
    found = []
    for name in names:
        found.append(name)
        if not name.endswith(COMPILED) and _is_ours(load_detector_config(name, device)):
            found.append(name + COMPILED)
    return found


def build_detector(name: str, image: tuple[int, int], device: str) -> tuple[Any, torch.optim.Optimizer, Any]:
    """The model for images of that height and width, its optimizer and its config."""
    require_detectron2()
    from detectron2.modeling import build_model

    from hiera_det.d2.train.solver import build_optimizer

    cfg = load_detector_config(name, device)
    torch.manual_seed(0)
    module = build_vitdet(cfg, max(image)) if name == VITDET_B else build_model(cfg)
    _set_predictions(module)
    return module, build_optimizer(cfg, module), cfg


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
    from detectron2.structures import Boxes, Instances, PolygonMasks

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
