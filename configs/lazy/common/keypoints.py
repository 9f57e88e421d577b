"""Keypoint R-CNN as in detectron2, out of the nodes of Mask R-CNN; the twin of configs/_base_/keypoint_rcnn.yaml."""

from detectron2.config import LazyCall as L
from detectron2.data.detection_utils import create_keypoint_hflip_indices
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import KRCNNConvDeconvUpsampleHead


def keypoint_rcnn(dataloader, lr_multiplier, model, optimizer, train):
    """Another detector's nodes with a head of keypoints in place of that of masks."""
    roi_heads, pooler = model.roi_heads, model.roi_heads.pop("mask_pooler")
    for mask in ("mask_in_features", "mask_head"):
        del roi_heads[mask]
    roi_heads.update(
        num_classes=1,
        keypoint_in_features=["p2", "p3", "p4", "p5"],
        keypoint_pooler=pooler,
        keypoint_head=L(KRCNNConvDeconvUpsampleHead)(
            input_shape=L(ShapeSpec)(channels="${....backbone.out_channels}", height=14, width=14),
            num_keypoints=17,
            conv_dims=[512] * 8,
            loss_normalizer="visible",
        ),
    )
    roi_heads.box_predictor.smooth_l1_beta = 0.5
    model.proposal_generator.post_nms_topk = [1500, 1000]
    dataloader.train.dataset.update(names="keypoints_coco_2017_train", min_keypoints=1)
    dataloader.test.dataset.names = "keypoints_coco_2017_val"
    dataloader.train.mapper.update(
        use_keypoint=True,
        keypoint_hflip_indices=L(create_keypoint_hflip_indices)(dataset_names="${...dataset.names}"),
    )
    return dataloader, lr_multiplier, model, optimizer, train
