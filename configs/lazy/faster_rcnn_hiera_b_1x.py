"""Faster R-CNN on Hiera-B, 12 epochs of COCO; the same detector and recipe as configs/faster_rcnn_hiera_b_1x.yaml."""

from .common.recipe import boxes_1x

dataloader, lr_multiplier, model, optimizer, train = boxes_1x(
    size="base", lr=3.5e-5, drop_path_rate=0.2, global_blocks=[12, 16, 20]
)
for _mask in ("mask_in_features", "mask_pooler", "mask_head"):
    del model.roi_heads[_mask]
