"""Semantic FPN on Hiera-B, 12 epochs of COCO; the same detector and recipe as configs/semantic_fpn_hiera_b_1x.yaml."""

from .common.recipe import mask_rcnn, multi_scale_1x
from .common.semantic import semantic_fpn

dataloader, lr_multiplier, model, optimizer, train = semantic_fpn(
    *multi_scale_1x(*mask_rcnn(size="base", lr=3.5e-5, drop_path_rate=0.2, global_blocks=[12, 16, 20]))
)
