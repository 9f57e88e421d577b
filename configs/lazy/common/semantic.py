"""Panoptic and Semantic FPN as in detectron2, on the nodes of another detector; twins of configs/_base_/."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling import PanopticFPN, SemanticSegmentor

from hiera_det.d2.model.heads import HieraSemSegHead

STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}


def panoptic_fpn(dataloader, lr_multiplier, model, optimizer, train):
    """Mask R-CNN's nodes with a semantic head beside the others."""
    model._target_ = PanopticFPN
    model.sem_seg_head = _head(loss_weight=0.5)
    _data(dataloader, "coco_2017_{}_panoptic_separated")
    dataloader.train.dataset.filter_empty = False
    return dataloader, lr_multiplier, model, optimizer, train


def semantic_fpn(dataloader, lr_multiplier, model, optimizer, train):
    """Another detector's backbone and pixels with a semantic head alone."""
    model.backbone.levels = list(STRIDES)
    model = L(SemanticSegmentor)(
        backbone=model.backbone,
        sem_seg_head=_head(loss_weight=1.0),
        pixel_mean=model.pixel_mean,
        pixel_std=model.pixel_std,
    )
    _data(dataloader, "coco_2017_{}_panoptic_stuffonly")
    dataloader.train.mapper.use_instance_mask = False
    train.pictures = 0  # they are of objects
    return dataloader, lr_multiplier, model, optimizer, train


def _head(loss_weight):
    shapes = {
        name: L(ShapeSpec)(channels="${....backbone.out_channels}", stride=stride) for name, stride in STRIDES.items()
    }
    return L(HieraSemSegHead)(
        input_shape=shapes,
        ignore_value=255,
        num_classes=54,  # COCO's stuff, and all things as one more
        conv_dims=128,
        common_stride=4,
        loss_weight=loss_weight,
        norm="LN",
    )


def _data(dataloader, name):
    dataloader.train.dataset.names, dataloader.test.dataset.names = name.format("train"), name.format("val")
