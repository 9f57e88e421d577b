"""The nodes of a leaf: detector, data, optimizer, schedule and training of the files beside this one."""

from .data import dataloader
from .model import model
from .optim import lr_multiplier, optimizer
from .train import train

#: The authors' MAE weights, CC BY-NC 4.0; train.init_checkpoint="" trains from scratch.
WEIGHTS = "https://dl.fbaipublicfiles.com/hiera/mae_hiera_{}_224.pth"


def mask_rcnn(size, lr, **trunk):
    """``dataloader, lr_multiplier, model, optimizer, train``; ``trunk``: further arguments of the trunk."""
    model.backbone.trunk.update(size=size, **trunk)
    optimizer.lr = lr
    train.init_checkpoint = WEIGHTS.format(size)
    return dataloader, lr_multiplier, model, optimizer, train
