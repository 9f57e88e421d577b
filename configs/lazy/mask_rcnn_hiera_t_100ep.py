"""Mask R-CNN on Hiera-T, 100 epochs of COCO; the same detector and recipe as configs/mask_rcnn_hiera_t.yaml."""

from .common.recipe import mask_rcnn

# Learning rate and drop path: ours: the paper has no row for this size
dataloader, lr_multiplier, model, optimizer, train = mask_rcnn(
    size="tiny", lr=3.5e-5, drop_path_rate=0.1, global_blocks=[5, 7, 9]
)
