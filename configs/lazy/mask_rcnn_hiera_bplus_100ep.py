"""Mask R-CNN on Hiera-B+, 100 epochs of COCO; the same detector and recipe as configs/mask_rcnn_hiera_bplus.yaml."""

from .common.data import dataloader
from .common.model import model
from .common.optim import lr_multiplier, optimizer
from .common.train import train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.trunk.update(
    size="base_plus",
    drop_path_rate=0.2,  # Hiera paper, Table 15
    global_blocks=[12, 16, 20],
)
optimizer.lr = 3.5e-5  # Hiera paper, Table 15
# The authors' MAE weights, CC BY-NC 4.0; "" trains from scratch
train.init_checkpoint = "https://dl.fbaipublicfiles.com/hiera/mae_hiera_base_plus_224.pth"
