"""Mask R-CNN on Hiera-T, 100 epochs of COCO; the same detector and recipe as configs/mask_rcnn_hiera_t.yaml."""

from .common.data import dataloader
from .common.model import model
from .common.optim import lr_multiplier, optimizer
from .common.train import train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.trunk.update(
    size="tiny",
    drop_path_rate=0.1,  # ours: the paper has no row for this size
    global_blocks=[5, 7, 9],
)
optimizer.lr = 3.5e-5  # ours: the paper has no row for this size
# The authors' MAE weights, CC BY-NC 4.0; "" trains from scratch
train.init_checkpoint = "https://dl.fbaipublicfiles.com/hiera/mae_hiera_tiny_224.pth"
