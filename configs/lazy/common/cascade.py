"""Cascade Mask R-CNN's heads for the detector of model.py: three stages of boxes, class-agnostic, as in ViTDet."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNOutputLayers

from hiera_det.d2.model.heads import HieraBoxHead

from .model import model

roi_heads = model.roi_heads
for one_stage in ("box_head", "box_predictor", "proposal_matcher"):
    del roi_heads[one_stage]
roi_heads.update(
    _target_=CascadeROIHeads,
    box_heads=[
        L(HieraBoxHead)(
            input_shape=L(ShapeSpec)(channels="${.....backbone.out_channels}", height=7, width=7),
            conv_dims=[256, 256, 256, 256],
            fc_dims=[1024],
            conv_norm="LN",
        )
        for _ in range(3)
    ],
    box_predictors=[
        L(FastRCNNOutputLayers)(
            input_shape=L(ShapeSpec)(channels=f"${{....box_heads[{stage}].fc_dims[0]}}"),
            box2box_transform=L(Box2BoxTransform)(weights=[centre, centre, size, size]),
            cls_agnostic_bbox_reg=True,
            num_classes="${...num_classes}",
            test_score_thresh=0.05,
            test_nms_thresh=0.5,
            test_topk_per_image=100,
        )
        for stage, (centre, size) in enumerate([(10.0, 5.0), (20.0, 10.0), (30.0, 15.0)])
    ],
    proposal_matchers=[
        L(Matcher)(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False) for iou in (0.5, 0.6, 0.7)
    ],
)
