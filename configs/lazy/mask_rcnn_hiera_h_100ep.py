"""Mask R-CNN on Hiera-H, 100 epochs of COCO; the same detector and recipe as configs/mask_rcnn_hiera_h.yaml."""

from .common.recipe import mask_rcnn

# Learning rate and drop path: ours: the paper has no row for this size
dataloader, lr_multiplier, model, optimizer, train = mask_rcnn(
    size="huge", lr=3.0e-5, drop_path_rate=0.5, window_size=[8, 4, 16, 8], global_blocks=[23, 33, 43]
)
