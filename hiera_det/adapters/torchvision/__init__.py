"""The trunk in torchvision's detectors. detectron2 need not be installed."""

from hiera_det.adapters.torchvision.models import (
    HieraFPNBackbone,
    fasterrcnn_hiera,
    fcos_hiera,
    keypointrcnn_hiera,
    maskrcnn_hiera,
    retinanet_hiera,
)
from hiera_det.adapters.torchvision.saved import SavedDetector, load_detector

__all__ = [
    "HieraFPNBackbone",
    "SavedDetector",
    "fasterrcnn_hiera",
    "fcos_hiera",
    "keypointrcnn_hiera",
    "load_detector",
    "maskrcnn_hiera",
    "retinanet_hiera",
]
