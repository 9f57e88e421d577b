"""Keypoint R-CNN on Hiera-B, 12 epochs of COCO; detector and recipe of configs/keypoint_rcnn_hiera_b_1x.yaml."""

from .common.keypoints import keypoint_rcnn
from .common.recipe import boxes_1x

dataloader, lr_multiplier, model, optimizer, train = keypoint_rcnn(
    *boxes_1x(size="base", lr=3.5e-5, drop_path_rate=0.2, global_blocks=[12, 16, 20])
)
