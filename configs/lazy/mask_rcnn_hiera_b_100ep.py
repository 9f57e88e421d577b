"""Mask R-CNN on Hiera-B, 100 epochs of COCO; the same detector and recipe as configs/mask_rcnn_hiera_b.yaml."""

from .common.recipe import mask_rcnn

# Learning rate and drop path: Hiera paper, Table 15
dataloader, lr_multiplier, model, optimizer, train = mask_rcnn(
    size="base", lr=3.5e-5, drop_path_rate=0.2, global_blocks=[12, 16, 20]
)
