"""The trunk and its necks as detectron2 backbones: composition and translation, no mathematics of their own."""

from __future__ import annotations

import logging
import re
from typing import Any

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from hiera_det.d2.config.words import renamed
from hiera_det.d2.model.recompute import PARTS
from hiera_det.engine.compilation import compile_in_place
from hiera_det.errors import InputError
from hiera_det.modeling.fast.sizes import is_size
from hiera_det.modeling.hiera import Hiera
from hiera_det.modeling.pyramid import FPN, SimpleFeaturePyramid
from hiera_det.modeling.variants import get_variant, spread_global_blocks
from hiera_det.weights.layouts import LAYOUTS
from hiera_det.zoo import build_hiera

__all__ = [
    "HieraBackbone",
    "build_hiera_backbone",
    "build_hiera_fpn_backbone",
    "build_hiera_simple_fpn_backbone",
]

logger = logging.getLogger("hiera_det.setup")

#: Arguments of the trunk that keys of ``MODEL.HIERA`` name in capitals.
FIELDS = (
    *("mlp_ratio", "drop_path_rate", "pretrain_size", "pos_embed", "pos_grid", "pos_antialias", "window_size"),
    *("window_padding", "layer_scale", "project_shortcut", "recompute_gelu"),
)


#: The heads of each detector that look at levels of a pyramid, by their nodes.
HEADS = {
    "GeneralizedRCNN": ("RPN", "ROI_HEADS"),
    "ProposalNetwork": ("RPN",),
    "PanopticFPN": ("RPN", "ROI_HEADS", "SEM_SEG_HEAD"),
    "SemanticSegmentor": ("SEM_SEG_HEAD",),
    "RetinaNet": ("RETINANET",),
    "HieraFCOS": ("RETINANET",),
}


class HieraBackbone(Backbone):
    """A Hiera trunk, with or without a neck, behind detectron2's backbone interface.

    Args:
        trunk: gives the stage maps.
        neck: an `FPN` or a `SimpleFeaturePyramid` over them; without one the stage maps are returned.
        square_pad: side in pixels to pad images to; 0 pads to the next multiple of 32 only.
    """

    def __init__(self, trunk: Hiera, neck: FPN | SimpleFeaturePyramid | None = None, square_pad: int = 0) -> None:
        super().__init__()
        if square_pad % trunk.size_divisibility or square_pad < 0:
            divisor = trunk.size_divisibility
            raise InputError(f"MODEL.HIERA.SQUARE_PAD {square_pad}: must be 0 or a multiple of {divisor}")
        self.trunk = trunk
        self.neck = neck
        self.square_pad = square_pad
        info = trunk.feature_info if neck is None else neck.feature_info
        self._shapes = {feature.name: ShapeSpec(channels=feature.channels, stride=feature.stride) for feature in info}
        self.register_load_state_dict_post_hook(_refuse_random_trunk)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images ``[B, C, H, W]`` of any size to maps ``[B, C, H'/s, W'/s]``, H' and W' the padded size.

        Raises:
            InputError: an image is larger than ``square_pad``.
        """
        maps = self.trunk(self._pad(images))
        return maps if self.neck is None else self.neck(maps)

    def _pad(self, images: Tensor) -> Tensor:
        """Zeros at the bottom and right: the mean colour, as detectron2 pads after normalising."""
        height, width = images.shape[-2:]
        step = self.trunk.size_divisibility
        padded_h, padded_w = (self.square_pad or (side + step - 1) // step * step for side in (height, width))
        if height > padded_h or width > padded_w:
            raise InputError(
                f"image {height}x{width} is larger than MODEL.HIERA.SQUARE_PAD {self.square_pad}: "
                "raise it, or lower INPUT.MAX_SIZE_TRAIN and INPUT.MAX_SIZE_TEST"
            )
        if is_size((height, width), (padded_h, padded_w)):
            return images
        return F.pad(images, (0, padded_w - width, 0, padded_h - height))

    @property
    def size_divisibility(self) -> int:
        """Pixels that detectron2 pads height and width to a multiple of."""
        return self.trunk.size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        """What detectron2's main branch asks in place of ``size_divisibility``; 0.6 relies on our own padding."""
        return {"size_divisibility": self.size_divisibility, "square_size": self.square_pad}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each map, by name; asking for a map that is not there names those that are."""
        return _Shapes(self._shapes)


class _Shapes(dict[str, ShapeSpec]):
    """Shapes of maps by name: detectron2's default keys ask for ResNet's ``res4``."""

    def __missing__(self, name: str) -> ShapeSpec:
        raise InputError(
            f"the backbone gives no map {name!r}: set MODEL.RPN.IN_FEATURES and MODEL.ROI_HEADS.IN_FEATURES, or "
            f"MODEL.RETINANET.IN_FEATURES, to some of {list(self)}"
        )


def _refuse_random_trunk(backbone: Any, incompatible: Any) -> None:
    """Refuse what detectron2's own checkpointer would leave random with a warning at most.

    Raises:
        InputError: the state dict has nothing for this trunk, and has a Hiera that is nobody's; or the checkpointer
            has left out a position embedding for its size.
    """
    own = set(backbone.trunk.state_dict())
    missing = [name for name in incompatible.missing_keys if name.rpartition("trunk.")[2] in own]
    stems = tuple(layout.signature[0] for layout in LAYOUTS)
    others = [name for name in incompatible.unexpected_keys if name.endswith(stems)]
    fault = ""
    if others and any(name.endswith(stems[0]) for name in missing):
        fault = f"have a trunk under other names ({others[0]})"
    elif missing and all("pos_embed" in name for name in missing):
        fault = f"have no {missing[0]} of this model's size; set MODEL.HIERA.PRETRAIN_SIZE to the file's, 224 as a rule"
    if fault:
        raise InputError(
            f"the weights {fault}: this would stay random; write them by `hiera-det convert-weights IN OUT.pth --to "
            "detectron2`, or load them by hiera_det.d2's HieraCheckpointer, which takes every layout and size"
        )


def trunk_from_config(cfg: CfgNode, input_shape: ShapeSpec, out_features: list[str]) -> Hiera:
    """Translate ``MODEL.HIERA`` into a trunk, compiled where it says so."""
    hiera = cfg.MODEL.HIERA
    depths = tuple(hiera.DEPTHS) or get_variant(hiera.SIZE).depths
    global_blocks = tuple(hiera.GLOBAL_BLOCKS)
    if not global_blocks and hiera.WINDOW_SIZE[2:3] != [0]:
        global_blocks = spread_global_blocks(depths, hiera.NUM_GLOBAL_BLOCKS)
    fields = {name: hiera[name.upper()] for name in FIELDS}
    fields |= {name: hiera[name.upper()] for name in ("embed_dim", "num_heads") if hiera[name.upper()]}
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    fields |= {"depths": depths, "global_blocks": global_blocks, "out_features": tuple(out_features)}
    named = hiera.CHECKPOINT_STAGES  # neck and heads are `recompute_parts`'s
    recomputed = tuple(name for name in named if name not in PARTS) if named else hiera.USE_CHECKPOINT
    with renamed({name: f"MODEL.HIERA.{name.upper()}" for name in (*fields, "embed_dim", "num_heads")}):
        trunk = build_hiera(hiera.SIZE, in_channels=input_shape.channels, use_checkpoint=recomputed, **fields)
    freeze_at(trunk, cfg.MODEL.BACKBONE.FREEZE_AT)
    if hiera.COMPILE:
        compile_in_place(trunk, cfg.MODEL.DEVICE, "MODEL.HIERA.COMPILE")
    return trunk


def freeze_at(trunk: Hiera, level: int) -> None:
    """Stop learning in the first parts of a trunk, as ``MODEL.BACKBONE.FREEZE_AT`` does in detectron2's ResNets.

    Args:
        trunk: see `Hiera.freeze`.
        level: 0 freezes nothing, 1 the stem and the position embeddings, 2 stage 1 too, ..., 5 all four stages.
    """
    if level < 1:
        return
    trunk.freeze(level - 1)
    counts = [
        sum(p.numel() for p in trunk.parameters() if not learning or p.requires_grad) for learning in (True, False)
    ]
    logger.info("MODEL.BACKBONE.FREEZE_AT %d: %d of the trunk's %d parameters learn", level, *counts)


@BACKBONE_REGISTRY.register()
def build_hiera_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> nn.Module:
    """The bare trunk: ``MODEL.HIERA.OUT_FEATURES``."""
    return HieraBackbone(
        trunk_from_config(cfg, input_shape, cfg.MODEL.HIERA.OUT_FEATURES), square_pad=cfg.MODEL.HIERA.SQUARE_PAD
    )


@BACKBONE_REGISTRY.register()
def build_hiera_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> nn.Module:
    """Trunk and feature pyramid: the levels that heads look at, of ``p2`` ... ``p7`` (Hiera paper, appendix A.2)."""
    trunk = trunk_from_config(cfg, input_shape, cfg.MODEL.HIERA.OUT_FEATURES)
    neck = FPN(trunk.feature_info, *_neck_arguments(cfg))
    return HieraBackbone(trunk, neck, cfg.MODEL.HIERA.SQUARE_PAD)


@BACKBONE_REGISTRY.register()
def build_hiera_simple_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> nn.Module:
    """Trunk and ViTDet's simple feature pyramid from ``MODEL.HIERA.PYRAMID_FEATURE``: levels likewise."""
    trunk = trunk_from_config(cfg, input_shape, [cfg.MODEL.HIERA.PYRAMID_FEATURE])
    neck = SimpleFeaturePyramid(trunk.feature_info[0], *_neck_arguments(cfg))
    return HieraBackbone(trunk, neck, cfg.MODEL.HIERA.SQUARE_PAD)


def _neck_arguments(cfg: CfgNode) -> tuple[int, str, list[str], str]:
    """Channels, norm, levels and top of a pyramid; what no head looks at is not built, for DDP waits for it."""
    levels = _levels_of_heads(cfg)
    top = cfg.MODEL.FPN.TOP or ("conv" if "p7" in levels else "pool")
    return cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FPN.NORM, levels, top


def _levels_of_heads(cfg: CfgNode) -> list[str]:
    """The levels that a detector's heads name; none, which stands for all, of heads that may be anybody's own."""
    heads = HEADS.get(cfg.MODEL.META_ARCHITECTURE, ())
    levels = [level for head in heads for level in cfg.MODEL[head].IN_FEATURES]
    return levels if all(re.fullmatch(r"p[2-7]", level) for level in levels) else []  # detectron2's default is res4
