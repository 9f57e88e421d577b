"""The nodes of a leaf: detector, data, optimizer, schedule and training of the files beside this one."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

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


def multi_scale_1x(dataloader, lr_multiplier, model, optimizer, train):
    """Another recipe's nodes at detectron2's multi-scale input and "1x" length, as in _base_/multi_scale_1x.yaml."""
    model.backbone.square_pad = 0
    sides = [640, 672, 704, 736, 768, 800]
    dataloader.train.mapper.augmentations = [
        L(T.ResizeShortestEdge)(short_edge_length=sides, max_size=1333, sample_style="choice"),
        L(T.RandomFlip)(),
    ]
    dataloader.train.mapper.recompute_boxes = False
    dataloader.test.mapper.augmentations[0].update(short_edge_length=800, max_size=1333)
    train.max_iter, train.amp.enabled = 22179, False  # 12 epochs; in float32, for a CPU too
    return dataloader, lr_multiplier, model, optimizer, train


def boxes_1x(**mask_rcnn_):
    """The 1x recipe of `mask_rcnn` for detectors without masks."""
    nodes = multi_scale_1x(*mask_rcnn(**mask_rcnn_))
    nodes[0].train.mapper.use_instance_mask = False
    return nodes
