"""A detector from one image to tensors, as a tracer can follow it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, PanopticFPN
from torch import Tensor, nn

from hiera_det.errors import InputError

__all__ = ["DetectorGraph", "output_names"]

#: Outputs by their names, and detectron2's fields.
FIELDS = {
    "boxes": "pred_boxes",
    "scores": "scores",
    "classes": "pred_classes",
    "masks": "pred_masks",
    "keypoints": "pred_keypoints",
}


def output_names(cfg: CfgNode) -> tuple[str, ...]:
    """What a `DetectorGraph` of this config gives."""
    absent = {"masks": not cfg.MODEL.MASK_ON, "keypoints": not cfg.MODEL.KEYPOINT_ON}
    return tuple(name for name in FIELDS if not absent.get(name))


class DetectorGraph(nn.Module):
    """A detector with region heads: Faster, Mask, Keypoint and Cascade R-CNN.

    Raises:
        InputError: it is another one.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        if not isinstance(detector, GeneralizedRCNN) or isinstance(detector, PanopticFPN):
            raise InputError(f"part detector: of a {type(detector).__name__} only trunk and pyramid can be exported")
        self.detector = detector

    @property
    def backbone(self) -> nn.Module:
        """Trunk and neck."""
        return self.detector.backbone  # type: ignore[return-value]

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Find the objects of one image.

        Args:
            image: ``[3, H, W]``, resized as for tests, pixels of 0 to 255.

        Returns:
            of N objects, the best first: ``boxes [N, 4]`` (XYXY in pixels of ``image``), ``scores [N]``, ``classes
            [N]`` (indices), ``masks [N, 1, 28, 28]`` (probabilities inside the box), ``keypoints [N, K, 3]`` (x, y,
            score).
        """
        with _traceable_lengths():
            (found,) = self.detector.inference([{"image": image}], do_postprocess=False)  # type: ignore[operator]
        fields = {name: found.get(field) for name, field in FIELDS.items() if found.has(field)}
        return {name: getattr(value, "tensor", value) for name, value in fields.items()}


@contextmanager
def _traceable_lengths() -> Iterator[None]:
    """Within it detectron2's heads see the number of proposals as a tensor, not as that of the traced image."""
    with ExitStack() as stack:
        for head in ("fast_rcnn", "mask_head", "keypoint_head"):
            name = f"detectron2.modeling.roi_heads.{head}.len"
            stack.enter_context(mock.patch(name, lambda objects: objects.__len__(), create=True))
        yield
