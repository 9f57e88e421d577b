"""Who reads which key of ``MODEL``, detectron2's of 0.6 and main and ours, when, and what it takes.

The tests walk over all keys, and compare this table with what is read while detectors are built and trained.
"""

from __future__ import annotations

from hiera_det.d2.config.kinds import SWITCH, TEXT, choice, number, several, whole
from hiera_det.d2.config.readers import (
    AMOUNT,
    ANY_NUMBER,
    BELOW_1,
    BETWEEN,
    CHANNELS,
    CLASSES,
    COUNT,
    FRACTION,
    LAYERS,
    NAMES,
    POSITIVE,
    SOME_NAMES,
    STAGE,
    STAGES,
    Reader,
    When,
    nested,
    on,
    one_of,
)
from hiera_det.modeling.variants import VARIANTS

__all__ = ["META_ARCHITECTURES", "MODEL_KEYS", "is_hiera", "scoring_node"]

META_ARCHITECTURES = (
    *("GeneralizedRCNN", "ProposalNetwork", "RetinaNet", "HieraFCOS", "PanopticFPN", "SemanticSegmentor"),
)
HIERA_BACKBONES = ("build_hiera_backbone", "build_hiera_fpn_backbone", "build_hiera_simple_fpn_backbone")
RESNET_BACKBONES = ("build_resnet_backbone", "build_resnet_fpn_backbone", "build_retinanet_resnet_fpn_backbone")
ROI_HEADS = ("StandardROIHeads", "CascadeROIHeads", "Res5ROIHeads", "RROIHeads")


def is_hiera(backbone: str) -> bool:
    """Whether the name of a backbone is one of ours, of which there may be more than the tables name."""
    return backbone.startswith("build_hiera_")


def scoring_node(meta_architecture: str) -> str:
    """The node of ``MODEL`` whose keys say what a detector's scores and boxes must be to be kept."""
    return "RETINANET" if meta_architecture in ("RetinaNet", "HieraFCOS") else "ROI_HEADS"


def _meta(*names: str) -> When:
    return one_of("MODEL.META_ARCHITECTURE", *names, known=META_ARCHITECTURES)


def _backbone(*names: str) -> When:
    return one_of("MODEL.BACKBONE.NAME", *names, known=(*HIERA_BACKBONES, *RESNET_BACKBONES))


def _heads(*names: str) -> When:
    return one_of("MODEL.ROI_HEADS.NAME", *names, known=ROI_HEADS)


WITH_ROIS = _meta("GeneralizedRCNN", "PanopticFPN")
WITH_RPN = (
    _meta("GeneralizedRCNN", "PanopticFPN", "ProposalNetwork"),
    one_of("MODEL.PROPOSAL_GENERATOR.NAME", "RPN", "RRPN", known=("RPN", "RRPN", "PrecomputedProposals")),
)
HIERA = _backbone(*HIERA_BACKBONES)
TRUNK_FEATURES = _backbone("build_hiera_backbone", "build_hiera_fpn_backbone")
MASKS = on("MODEL.MASK_ON")
BOX_LOSS = choice("smooth_l1", "giou", "diou", "ciou")
BOX_WEIGHTS = several(POSITIVE, 4, 5)
#: The parts of a pooler, with which each kind of ROI head begins.
POOLED = {
    whole(1, 512): "POOLER_RESOLUTION",
    whole(0, 64): "POOLER_SAMPLING_RATIO",
    choice("ROIAlignV2", "ROIAlign", "ROIPool", "ROIAlignRotated"): "POOLER_TYPE",
}

MODEL_KEYS: tuple[Reader, ...] = (
    Reader("detectors, every so many steps", (_meta(*META_ARCHITECTURES[:5]),), "", {whole(): "VIS_PERIOD"}),
    Reader(
        "every detector",
        (),
        "MODEL.",
        {
            TEXT: "DEVICE META_ARCHITECTURE WEIGHTS BACKBONE.NAME",
            several(ANY_NUMBER, 1, 16): "PIXEL_MEAN",
            several(POSITIVE, 1, 16): "PIXEL_STD",
            SWITCH: "MASK_ON LOAD_PROPOSALS",
        },
    ),
    Reader("backbones", (), "MODEL.BACKBONE.", {whole(0, 5): "FREEZE_AT"}),
    Reader("ROI heads", (WITH_ROIS,), "MODEL.", {SWITCH: "KEYPOINT_ON"}),
    Reader(
        "feature pyramids",
        (_backbone(*HIERA_BACKBONES[1:], *RESNET_BACKBONES[1:]),),
        "MODEL.FPN.",
        {CHANNELS: "OUT_CHANNELS", TEXT: "NORM"},
    ),
    Reader("Hiera's pyramids", (_backbone(*HIERA_BACKBONES[1:]),), "MODEL.FPN.", {choice("", "pool", "conv"): "TOP"}),
    Reader(
        "detectron2's pyramid",
        (_backbone(*RESNET_BACKBONES[1:]),),
        "MODEL.FPN.",
        {NAMES: "IN_FEATURES", choice("sum", "avg"): "FUSE_TYPE"},
        "MODEL.HIERA.OUT_FEATURES names the stages that a Hiera's pyramid stands on",
    ),
    Reader(
        "detectron2's ResNets",
        (_backbone(*RESNET_BACKBONES),),
        "MODEL.RESNETS.",
        {
            whole(1, 1000): "DEPTH",
            NAMES: "OUT_FEATURES",
            CHANNELS: "NUM_GROUPS WIDTH_PER_GROUP RES2_OUT_CHANNELS STEM_OUT_CHANNELS DEFORM_NUM_GROUPS",
            TEXT: "NORM",
            SWITCH: "STRIDE_IN_1X1 DEFORM_MODULATED",
            whole(1, 2): "RES5_DILATION",
            several(SWITCH, 4, 4): "DEFORM_ON_PER_STAGE",
        },
        "MODEL.HIERA.SIZE chooses a Hiera",
    ),
    Reader(
        "the Hiera trunk",
        (HIERA,),
        "MODEL.HIERA.",
        {
            choice(*VARIANTS): "SIZE",
            whole(0, 2**12): "EMBED_DIM",
            whole(0, 2**8): "NUM_HEADS",
            several(whole(1, 256), 0, 4): "DEPTHS",
            number(0.0, 64.0, above=True): "MLP_RATIO",
            BELOW_1: "DROP_PATH_RATE",
            whole(32, 2**13): "PRETRAIN_SIZE",
            choice("interpolate", "tile", "absolute_win"): "POS_EMBED",
            several(whole(0, 2**10), 4, 4): "WINDOW_SIZE",
            several(whole(0, 1023)): "GLOBAL_BLOCKS",
            choice("zero", "mask"): "WINDOW_PADDING",
            SWITCH: "LAYER_SCALE PROJECT_SHORTCUT USE_CHECKPOINT COMPILE",
            several(STAGE, 0, 4): "RECOMPUTE_GELU",
            several(choice(*STAGES, "neck", "heads"), 0, 6): "CHECKPOINT_STAGES",
            whole(0, 2**15): "SQUARE_PAD",
        },
    ),
    Reader("the trunk's feature maps", (TRUNK_FEATURES,), "MODEL.HIERA.", {several(STAGE, 1, 4): "OUT_FEATURES"}),
    Reader(
        "the simple pyramid",
        (_backbone("build_hiera_simple_fpn_backbone"),),
        "MODEL.HIERA.",
        {STAGE: "PYRAMID_FEATURE"},
    ),
    Reader(
        "position embeddings in two parts",
        (HIERA, one_of("MODEL.HIERA.POS_EMBED", "absolute_win")),
        "MODEL.HIERA.",
        {several(whole(1, 512), 2, 2): "POS_GRID", SWITCH: "POS_ANTIALIAS"},
    ),
    Reader(
        "the trunk, which spreads global blocks over a windowed stage 3",
        (
            HIERA,
            When("MODEL.HIERA.GLOBAL_BLOCKS", lambda value: not value, "[]"),
            When("MODEL.HIERA.WINDOW_SIZE", lambda value: list(value[2:3]) != [0], "windows in stage 3 too"),
        ),
        "MODEL.HIERA.",
        {whole(0, 256): "NUM_GLOBAL_BLOCKS"},
    ),
    Reader("proposals", (WITH_RPN[0],), "MODEL.PROPOSAL_GENERATOR.", {TEXT: "NAME"}),
    Reader("detectron2's RPN", WITH_RPN, "MODEL.PROPOSAL_GENERATOR.", {AMOUNT: "MIN_SIZE"}),
    Reader(
        "anchors",
        (_meta("GeneralizedRCNN", "PanopticFPN", "ProposalNetwork", "RetinaNet"),),
        "MODEL.ANCHOR_GENERATOR.",
        {TEXT: "NAME", nested(POSITIVE): "SIZES ASPECT_RATIOS", BELOW_1: "OFFSET"},
    ),
    Reader(
        "rotated anchors",
        (one_of("MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator", known=("DefaultAnchorGenerator",)),),
        "MODEL.ANCHOR_GENERATOR.",
        {nested(ANY_NUMBER): "ANGLES"},
    ),
    Reader(
        "detectron2's RPN",
        WITH_RPN,
        "MODEL.RPN.",
        {
            TEXT: "HEAD_NAME",
            SOME_NAMES: "IN_FEATURES",
            whole(-1): "BOUNDARY_THRESH",
            several(FRACTION, 1): "IOU_THRESHOLDS",
            several(whole(-1, 1), 2): "IOU_LABELS",
            COUNT: "BATCH_SIZE_PER_IMAGE PRE_NMS_TOPK_TRAIN PRE_NMS_TOPK_TEST POST_NMS_TOPK_TRAIN POST_NMS_TOPK_TEST",
            FRACTION: "POSITIVE_FRACTION NMS_THRESH",
            BOX_LOSS: "BBOX_REG_LOSS_TYPE",
            AMOUNT: "BBOX_REG_LOSS_WEIGHT SMOOTH_L1_BETA LOSS_WEIGHT",
            BOX_WEIGHTS: "BBOX_REG_WEIGHTS",
            several(whole(-1, 2**14), 1, 64): "CONV_DIMS",
        },
    ),
    Reader(
        "HieraRPNHead",
        (*WITH_RPN, one_of("MODEL.RPN.HEAD_NAME", "HieraRPNHead", known=("HieraRPNHead", "StandardRPNHead"))),
        "MODEL.RPN.",
        {TEXT: "NORM"},
    ),
    Reader(
        "ROI heads",
        (WITH_ROIS,),
        "MODEL.ROI_HEADS.",
        {
            TEXT: "NAME",
            CLASSES: "NUM_CLASSES",
            SOME_NAMES: "IN_FEATURES",
            several(FRACTION, 1): "IOU_THRESHOLDS",
            several(whole(-1, 1), 2): "IOU_LABELS",
            COUNT: "BATCH_SIZE_PER_IMAGE",
            FRACTION: "POSITIVE_FRACTION SCORE_THRESH_TEST NMS_THRESH_TEST",
            SWITCH: "PROPOSAL_APPEND_GT",
        },
    ),
    Reader(
        "box heads",
        (WITH_ROIS,),
        "MODEL.ROI_BOX_HEAD.",
        {
            **POOLED,
            BOX_LOSS: "BBOX_REG_LOSS_TYPE",
            AMOUNT: "BBOX_REG_LOSS_WEIGHT SMOOTH_L1_BETA",
            SWITCH: "CLS_AGNOSTIC_BBOX_REG USE_SIGMOID_CE USE_FED_LOSS",
        },
    ),
    Reader(
        "box heads with layers of their own",
        (WITH_ROIS, _heads("StandardROIHeads", "CascadeROIHeads", "RROIHeads")),
        "MODEL.ROI_BOX_HEAD.",
        {TEXT: "NAME NORM", LAYERS: "NUM_FC NUM_CONV", CHANNELS: "FC_DIM CONV_DIM"},
    ),
    Reader(
        "box heads of one stage",
        (WITH_ROIS, _heads("StandardROIHeads", "Res5ROIHeads", "RROIHeads")),
        "MODEL.ROI_BOX_HEAD.",
        {BOX_WEIGHTS: "BBOX_REG_WEIGHTS"},
        "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS is a cascade's",
    ),
    Reader(
        "StandardROIHeads",
        (WITH_ROIS, _heads("StandardROIHeads")),
        "MODEL.ROI_BOX_HEAD.",
        {SWITCH: "TRAIN_ON_PRED_BOXES"},
    ),
    Reader(
        "the federated loss",
        (WITH_ROIS, on("MODEL.ROI_BOX_HEAD.USE_FED_LOSS")),
        "MODEL.ROI_BOX_HEAD.",
        {CLASSES: "FED_LOSS_NUM_CLASSES", ANY_NUMBER: "FED_LOSS_FREQ_WEIGHT_POWER"},
    ),
    Reader(
        "CascadeROIHeads",
        (WITH_ROIS, _heads("CascadeROIHeads")),
        "MODEL.ROI_BOX_CASCADE_HEAD.",
        {several(BOX_WEIGHTS, 1, 16): "BBOX_REG_WEIGHTS", several(FRACTION, 1, 16): "IOUS"},
    ),
    Reader(
        "mask heads",
        (WITH_ROIS, MASKS),
        "MODEL.ROI_MASK_HEAD.",
        {**POOLED, TEXT: "NAME NORM", LAYERS: "NUM_CONV", CHANNELS: "CONV_DIM", SWITCH: "CLS_AGNOSTIC_MASK"},
    ),
    Reader(
        "keypoint heads",
        (WITH_ROIS, on("MODEL.KEYPOINT_ON")),
        "MODEL.ROI_KEYPOINT_HEAD.",
        {
            **POOLED,
            TEXT: "NAME",
            several(CHANNELS, 1, 64): "CONV_DIMS",
            whole(1, 1000): "NUM_KEYPOINTS",
            whole(): "MIN_KEYPOINTS_PER_IMAGE",
            SWITCH: "NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS",
            AMOUNT: "LOSS_WEIGHT",
        },
    ),
    Reader(
        "semantic heads",
        (_meta("PanopticFPN", "SemanticSegmentor"),),
        "MODEL.SEM_SEG_HEAD.",
        {
            TEXT: "NAME NORM",
            SOME_NAMES: "IN_FEATURES",
            whole(-1, 2**31): "IGNORE_VALUE",
            CLASSES: "NUM_CLASSES",
            CHANNELS: "CONVS_DIM",
            whole(1, 256): "COMMON_STRIDE",
            AMOUNT: "LOSS_WEIGHT",
        },
    ),
    Reader(
        "PanopticFPN",
        (_meta("PanopticFPN"),),
        "MODEL.PANOPTIC_FPN.",
        {
            AMOUNT: "INSTANCE_LOSS_WEIGHT COMBINE.STUFF_AREA_LIMIT",
            SWITCH: "COMBINE.ENABLED",
            FRACTION: "COMBINE.OVERLAP_THRESH COMBINE.INSTANCES_CONFIDENCE_THRESH",
        },
    ),
    Reader(
        "RetinaNet and FCOS",
        (_meta("RetinaNet", "HieraFCOS"),),
        "MODEL.RETINANET.",
        {
            CLASSES: "NUM_CLASSES",
            SOME_NAMES: "IN_FEATURES",
            LAYERS: "NUM_CONVS",
            BETWEEN: "PRIOR_PROB",
            FRACTION: "SCORE_THRESH_TEST NMS_THRESH_TEST",
            COUNT: "TOPK_CANDIDATES_TEST",
            AMOUNT: "FOCAL_LOSS_GAMMA",
            number(-1.0, 1.0): "FOCAL_LOSS_ALPHA",
            TEXT: "NORM",
        },
    ),
    Reader(
        "RetinaNet",
        (_meta("RetinaNet"),),
        "MODEL.RETINANET.",
        {
            several(FRACTION, 1): "IOU_THRESHOLDS",
            several(whole(-1, 1), 2): "IOU_LABELS",
            BOX_WEIGHTS: "BBOX_REG_WEIGHTS",
            AMOUNT: "SMOOTH_L1_LOSS_BETA",
            BOX_LOSS: "BBOX_REG_LOSS_TYPE",
        },
    ),
)
