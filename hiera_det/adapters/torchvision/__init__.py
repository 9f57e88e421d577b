"""The trunk in torchvision's detectors. detectron2 need not be installed."""

from hiera_det.adapters.torchvision.models import (
    HieraFPNBackbone,
    fasterrcnn_hiera,
    fcos_hiera,
    keypointrcnn_hiera,
    maskrcnn_hiera,
    retinanet_hiera,
)

__all__ = [
    "HieraFPNBackbone",
    "fasterrcnn_hiera",
    "fcos_hiera",
    "keypointrcnn_hiera",
    "maskrcnn_hiera",
    "retinanet_hiera",
]
