"""A backbone with torchvision's names of levels, and its five detectors complete, with anchors that fit the levels.

Detectors take what torchvision's take: a list of images ``[3, H, W]`` of any size, red, green and blue of 0 to 1, and
in training a list of targets. ``num_classes`` counts the background, which is class 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.rpn import RPNHead

from hiera_det.adapters.fpn import HieraFPN
from hiera_det.files import StrPath
from hiera_det.modeling.hiera import Hiera
from hiera_det.modeling.pyramid import LayerNorm2d

__all__ = [
    "HieraFPNBackbone",
    "fasterrcnn_hiera",
    "fcos_hiera",
    "keypointrcnn_hiera",
    "maskrcnn_hiera",
    "retinanet_hiera",
]

#: Levels of the detectors of one stage, whose anchors begin at stride 8.
ONE_STAGE = {"levels": ("p3", "p4", "p5", "p6", "p7"), "top": "conv"}
RATIOS = (0.5, 1.0, 2.0)


class HieraFPNBackbone(nn.Module):
    """Trunk and pyramid for torchvision's detectors: ``"0"``, ``"1"``, ... from the finest level, then ``"pool"``.

    ``"pool"`` is ``p6`` of the top ``pool``; with the top ``conv`` there are ``"p6"`` and ``"p7"`` instead, all as of
    torchvision's own ``BackboneWithFPN``. The detector normalises and pads the images; `detector_arguments` says how.

    Args:
        size: as of `HieraFPN`.
        arguments: the others of `HieraFPN`.

    Attributes:
        out_channels: of every level.
        names: the levels' names here, by those of `HieraFPN`.
    """

    def __init__(self, size: str | Hiera, **arguments: Any) -> None:
        super().__init__()
        self.fpn = HieraFPN(size, **arguments)
        neck = self.fpn.neck
        self.out_channels = neck.feature_info[0].channels
        tops = {"p6": "pool"} if arguments.get("top", "pool") == "pool" else {}
        wanted = [name for name in neck.standing if name in self.fpn.channels]
        self.names = {name: str(number) for number, name in enumerate(wanted)}
        self.names |= {name: tops.get(name, name) for name in self.fpn.channels if name not in self.names}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images ``[B, C, H, W]``, H and W multiples of 32, to levels by name, finest first."""
        return {self.names[name]: level for name, level in self.fpn.levels(images).items()}

    def detector_arguments(self) -> dict[str, Any]:
        """How a detector of torchvision's is to normalise images of 0 to 1, and what it is to pad their sides to."""
        mean, std = (value.flatten() / self.fpn.white for value in (self.fpn.pixel_mean, self.fpn.pixel_std))
        step = self.fpn.trunk.size_divisibility
        return {"image_mean": mean.tolist(), "image_std": std.tolist(), "size_divisible": step}

    def anchors(self, scales: tuple[float, ...], ratios: tuple[float, ...] = RATIOS) -> AnchorGenerator:
        """Anchors whose sides are ``scales`` times the stride of each level."""
        strides = self.fpn.strides.values()
        sizes = tuple(tuple(int(scale * stride) for scale in scales) for stride in strides)
        return AnchorGenerator(sizes, (ratios,) * len(sizes))


def fasterrcnn_hiera(
    size: str | Hiera,
    num_classes: int,
    *,
    weights: StrPath = "",
    backbone: Mapping[str, Any] | None = None,
    **options: Any,
) -> FasterRCNN:
    """Faster R-CNN with the heads of the Hiera paper's: two convolutions in the RPN, four and a LayerNorm in the head.

    Args:
        size: as of `HieraFPN`.
        num_classes: the background included, as torchvision counts.
        weights: of the trunk, as in `hiera_det.build_hiera`.
        backbone: arguments of `HieraFPN`, such as ``{"drop_path_rate": 0.2}``.
        options: arguments of torchvision's ``FasterRCNN``, such as ``min_size``; they come before ours.

    Raises:
        InputError: a value of the backbone's that cannot be used, or weights that do not fit.
    """
    return FasterRCNN(**_two_stage(size, num_classes, weights, backbone, options))


def maskrcnn_hiera(
    size: str | Hiera,
    num_classes: int,
    *,
    weights: StrPath = "",
    backbone: Mapping[str, Any] | None = None,
    **options: Any,
) -> MaskRCNN:
    """Mask R-CNN with the heads of the Hiera paper's. Arguments as of `fasterrcnn_hiera`, for ``MaskRCNN``."""
    arguments = _two_stage(size, num_classes, weights, backbone, options)
    heads = MaskRCNNHeads(arguments["backbone"].out_channels, (256,) * 4, 1, norm_layer=LayerNorm2d)
    return MaskRCNN(**{"mask_head": heads} | arguments)


def keypointrcnn_hiera(
    size: str | Hiera,
    num_classes: int = 2,
    *,
    weights: StrPath = "",
    backbone: Mapping[str, Any] | None = None,
    **options: Any,
) -> KeypointRCNN:
    """Keypoint R-CNN. Arguments as of `fasterrcnn_hiera`, for ``KeypointRCNN``, such as ``num_keypoints``."""
    return KeypointRCNN(**_two_stage(size, num_classes, weights, backbone, options))


def retinanet_hiera(
    size: str | Hiera,
    num_classes: int,
    *,
    weights: StrPath = "",
    backbone: Mapping[str, Any] | None = None,
    **options: Any,
) -> RetinaNet:
    """RetinaNet on ``p3`` ... ``p7``. Arguments as of `fasterrcnn_hiera`, for ``RetinaNet``."""
    made = HieraFPNBackbone(size, **{**ONE_STAGE, "weights": weights, **(backbone or {})})
    own = {"anchor_generator": made.anchors((4, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3)))} | made.detector_arguments()
    return RetinaNet(made, num_classes, **(own | options))


def fcos_hiera(
    size: str | Hiera,
    num_classes: int,
    *,
    weights: StrPath = "",
    backbone: Mapping[str, Any] | None = None,
    **options: Any,
) -> FCOS:
    """FCOS on ``p3`` ... ``p7``. Arguments as of `fasterrcnn_hiera`, for ``FCOS``."""
    made = HieraFPNBackbone(size, **{**ONE_STAGE, "weights": weights, **(backbone or {})})
    own = {"anchor_generator": made.anchors((1,), (1.0,))} | made.detector_arguments()
    return FCOS(made, num_classes, **(own | options))


def _two_stage(
    size: str | Hiera,
    num_classes: int,
    weights: StrPath,
    backbone: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Arguments of a detector of two stages."""
    made = HieraFPNBackbone(size, **{"weights": weights, **(backbone or {})})
    channels, anchors = made.out_channels, options.get("rpn_anchor_generator") or made.anchors((8,))
    own = {
        "num_classes": num_classes,
        "rpn_anchor_generator": anchors,
        "rpn_head": RPNHead(channels, anchors.num_anchors_per_location()[0], conv_depth=2),
        "box_head": FastRCNNConvFCHead((channels, 7, 7), [channels] * 4, [1024], norm_layer=LayerNorm2d),
    }
    return own | made.detector_arguments() | dict(options) | {"backbone": made}
