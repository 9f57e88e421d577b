"""Mask R-CNN on Hiera-L, 100 epochs of COCO; the same detector and recipe as configs/mask_rcnn_hiera_l.yaml."""

from .common.recipe import mask_rcnn

# Learning rate and drop path: Hiera paper, Table 15
dataloader, lr_multiplier, model, optimizer, train = mask_rcnn(
    size="large", lr=3.0e-5, drop_path_rate=0.4, window_size=[8, 4, 16, 8], global_blocks=[23, 33, 43]
)
