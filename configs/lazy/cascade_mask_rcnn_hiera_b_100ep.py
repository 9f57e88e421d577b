"""Cascade Mask R-CNN on Hiera-B, 100 epochs of COCO: the recipe of its Mask R-CNN, with three stages of boxes."""

from .common.cascade import roi_heads as _roi_heads
from .mask_rcnn_hiera_b_100ep import dataloader, lr_multiplier, model, optimizer, train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.roi_heads = _roi_heads
