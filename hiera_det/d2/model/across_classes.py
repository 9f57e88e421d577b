"""A detector as it is evaluated and predicts: augmented, and with one class for one object, where a config says so."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA
from torch import nn
from torchvision.ops import nms

from hiera_det.d2.config.model_keys import scoring_node
from hiera_det.errors import InputError

__all__ = ["as_tested"]


def as_tested(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """The detector with what ``TEST.AUG`` and ``TEST.NMS_ACROSS_CLASSES`` add; without them the model itself.

    Raises:
        InputError: ``TEST.AUG`` of what is no `GeneralizedRCNN`.
    """
    if cfg.TEST.AUG.ENABLED:
        inner = getattr(model, "module", model)  # out of DistributedDataParallel
        if not isinstance(inner, GeneralizedRCNN):
            raise InputError(f"TEST.AUG.ENABLED: {type(inner).__name__} has no test-time augmentation; set it to False")
        model = GeneralizedRCNNWithTTA(cfg, inner)
    return AcrossClasses(model, _overlap(cfg)) if cfg.TEST.NMS_ACROSS_CLASSES else model


def _overlap(cfg: CfgNode) -> float:
    return float(cfg.MODEL[scoring_node(cfg.MODEL.META_ARCHITECTURE)].NMS_THRESH_TEST)


class AcrossClasses(nn.Module):
    """Non-maximum suppression over all classes together, after that of the detector over each of them.

    Args:
        model: a detector.
        overlap: of boxes, above which the one of the lower score is left out.
    """

    def __init__(self, model: nn.Module, overlap: float) -> None:
        super().__init__()
        self.model, self.overlap = model, overlap
        self.training = model.training  # a frozen part keeps the mode it has

    def forward(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """As the detector's, of every place one object; the best score first."""
        outputs: list[dict[str, Any]] = self.model(inputs)
        for output in outputs:
            if "instances" in output:
                found = output["instances"]
                kept = nms(found.pred_boxes.tensor.float(), found.scores.float(), self.overlap)
                output["instances"] = found[kept]
        return outputs
