"""RetinaNet and FCOS as in detectron2, on the backbone of model.py; twins of configs/_base_/{retinanet,fcos}.yaml."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.modeling.meta_arch.fcos import FCOSHead
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead

from hiera_det.d2.model.heads import HieraFCOS, norm_by_name

LEVELS = ["p3", "p4", "p5", "p6", "p7"]
#: Of both; four convolutions on each level.
HEAD = {
    "input_shape": [L(ShapeSpec)(channels="${....backbone.out_channels}") for _ in LEVELS],
    "num_classes": "${..num_classes}",
    "conv_dims": ["${...backbone.out_channels}"] * 4,
    "prior_prob": 0.01,
}


def retinanet(mask_rcnn):
    """RetinaNet with the backbone and the pixels of another detector's node."""
    return L(RetinaNet)(
        **_shared(mask_rcnn),
        head=L(RetinaNetHead)(**HEAD, num_anchors=9),
        anchor_generator=L(DefaultAnchorGenerator)(
            # three octaves a level: x, x * 2^(1/3), x * 2^(2/3)
            sizes=[
                [32, 40.3175, 50.7968],
                [64, 80.6349, 101.5937],
                [128, 161.2699, 203.1873],
                [256, 322.5398, 406.3747],
                [512, 645.0796, 812.7493],
            ],
            aspect_ratios=[[0.5, 1.0, 2.0]],
            strides=[8, 16, 32, 64, 128],
            offset=0.0,
        ),
        anchor_matcher=L(Matcher)(thresholds=[0.4, 0.5], labels=[0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        smooth_l1_beta=0.0,
        test_score_thresh=0.05,
        test_nms_thresh=0.5,
        input_format=mask_rcnn.input_format,
    )


def fcos(mask_rcnn):
    """FCOS with the backbone and the pixels of another detector's node."""
    return L(HieraFCOS)(
        **_shared(mask_rcnn),
        head=L(FCOSHead)(**HEAD, norm=L(norm_by_name)(name="GN")),
        test_score_thresh=0.2,
        test_nms_thresh=0.6,
    )


def _shared(mask_rcnn):
    mask_rcnn.backbone.update(levels=LEVELS, top="conv")
    return {
        "backbone": mask_rcnn.backbone,
        "num_classes": 80,
        "head_in_features": LEVELS,
        "focal_loss_alpha": 0.25,
        "focal_loss_gamma": 2.0,
        "test_topk_candidates": 1000,
        "max_detections_per_image": 100,
        "pixel_mean": mask_rcnn.pixel_mean,
        "pixel_std": mask_rcnn.pixel_std,
    }
