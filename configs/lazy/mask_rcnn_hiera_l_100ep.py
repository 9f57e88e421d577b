"""Mask R-CNN on Hiera-L, 100 epochs of COCO; the same detector and recipe as configs/mask_rcnn_hiera_l.yaml."""

from .common.data import dataloader
from .common.model import model
from .common.optim import lr_multiplier, optimizer
from .common.train import train

__all__ = ["dataloader", "lr_multiplier", "model", "optimizer", "train"]

model.backbone.trunk.update(
    size="large",
    drop_path_rate=0.4,  # Hiera paper, Table 15
    window_size=[8, 4, 16, 8],
    global_blocks=[23, 33, 43],
)
optimizer.lr = 3.0e-5  # Hiera paper, Table 15
# The authors' MAE weights, CC BY-NC 4.0; "" trains from scratch
train.init_checkpoint = "https://dl.fbaipublicfiles.com/hiera/mae_hiera_large_224.pth"
