"""Hiera for detection and segmentation.

The trunk and the necks are plain PyTorch; `hiera_det.d2` plugs them into detectron2. Public names are imported on
first use (PEP 562), so that ``import hiera_det`` imports neither torch nor a detector.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from opcode import opname
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hiera_det.adapters.fpn import HieraFPN, PyramidOutput
    from hiera_det.api.detector import train_detector
    from hiera_det.api.evaluation import evaluate
    from hiera_det.api.export import export_model
    from hiera_det.api.plain import pretrain_mae, train_classifier, train_torchvision
    from hiera_det.api.run import Run, Weights, open_run
    from hiera_det.d2 import HieraBackbone, add_hiera_config
    from hiera_det.d2.predict.predictor import Predictor
    from hiera_det.data.coco.check import check_dataset
    from hiera_det.data.coco.findings import Finding
    from hiera_det.engine.callbacks import Callback
    from hiera_det.engine.optimizer import get_param_groups
    from hiera_det.errors import InputError
    from hiera_det.modeling.classifier import HieraForClassification
    from hiera_det.modeling.hiera import Hiera
    from hiera_det.modeling.intermediates import Intermediates, intermediates
    from hiera_det.modeling.mae import HieraMAE, MAEOutput
    from hiera_det.modeling.options import HieraOptions
    from hiera_det.modeling.pyramid import FPN, SimpleFeaturePyramid
    from hiera_det.modeling.variants import HIERADET_VARIANTS, VARIANTS, HieraDetVariant, HieraVariant
    from hiera_det.weights.load import LoadReport, load_weights
    from hiera_det.zoo import (
        build_hiera,
        build_hieradet,
        hiera_base,
        hiera_base_plus,
        hiera_classifier,
        hiera_huge,
        hiera_large,
        hiera_mae,
        hiera_small,
        hiera_small_abswin,
        hiera_tiny,
        hieradet_base_plus,
        hieradet_large,
        hieradet_small,
        hieradet_tiny,
    )

__version__ = "0.1.0"

#: The public names by their modules.
_NAMES = {
    "adapters.fpn": "HieraFPN PyramidOutput",
    "api.detector": "train_detector",
    "api.evaluation": "evaluate",
    "api.export": "export_model",
    "api.plain": "pretrain_mae train_classifier train_torchvision",
    "api.run": "Run Weights open_run",
    "d2": "HieraBackbone add_hiera_config",
    "d2.predict.predictor": "Predictor",
    "data.coco.check": "check_dataset",
    "data.coco.findings": "Finding",
    "engine.callbacks": "Callback",
    "engine.optimizer": "get_param_groups",
    "errors": "InputError",
    "modeling.classifier": "HieraForClassification",
    "modeling.hiera": "Hiera",
    "modeling.intermediates": "Intermediates intermediates",
    "modeling.mae": "HieraMAE MAEOutput",
    "modeling.options": "HieraOptions",
    "modeling.pyramid": "FPN SimpleFeaturePyramid",
    "modeling.variants": "HIERADET_VARIANTS HieraDetVariant HieraVariant VARIANTS",
    "weights.load": "LoadReport load_weights",
    "zoo": "build_hiera build_hieradet hiera_base hiera_base_plus hiera_classifier hiera_huge hiera_large hiera_mae "
    "hiera_small hiera_small_abswin hiera_tiny hieradet_base_plus hieradet_large hieradet_small hieradet_tiny",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "FPN",
    "HIERADET_VARIANTS",
    "VARIANTS",
    "Callback",
    "Finding",
    "Hiera",
    "HieraBackbone",
    "HieraDetVariant",
    "HieraFPN",
    "HieraForClassification",
    "HieraMAE",
    "HieraOptions",
    "HieraVariant",
    "InputError",
    "Intermediates",
    "LoadReport",
    "MAEOutput",
    "Predictor",
    "PyramidOutput",
    "Run",
    "SimpleFeaturePyramid",
    "Weights",
    "add_hiera_config",
    "build_hiera",
    "build_hieradet",
    "check_dataset",
    "evaluate",
    "export_model",
    "get_param_groups",
    "hiera_base",
    "hiera_base_plus",
    "hiera_classifier",
    "hiera_huge",
    "hiera_large",
    "hiera_mae",
    "hiera_small",
    "hiera_small_abswin",
    "hiera_tiny",
    "hieradet_base_plus",
    "hieradet_large",
    "hieradet_small",
    "hieradet_tiny",
    "intermediates",
    "load_weights",
    "open_run",
    "pretrain_mae",
    "train_classifier",
    "train_detector",
    "train_torchvision",
]


#: Names that come from the adapter to detectron2, which may not be installed.
_ADAPTERS = [name for name, home in _HOME.items() if home.startswith("d2")]


def _has_detectron2() -> bool:
    try:
        return importlib.util.find_spec("detectron2") is not None
    except ImportError:
        return False


if not _has_detectron2():
    for _name in _ADAPTERS:
        __all__.remove(_name)  # ``from hiera_det import *`` brings what there is


def __getattr__(name: str) -> object:
    """Import a public name's module when it is first asked for.

    Raises:
        ImportError: in an import statement, where the name needs a package that is not installed; it says which.
        AttributeError: the same where Python asks for an attribute, as `hasattr`, pydoc and inspect do.
    """
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    except ImportError as error:
        if name not in _ADAPTERS or _is_import_statement(sys._getframe(1)):
            raise
        raise AttributeError(f"{__name__}.{name}: {error}") from None


def _is_import_statement(frame: FrameType) -> bool:
    """Whether a frame is at ``from ... import name``, which tells nothing of an AttributeError's message."""
    return opname[frame.f_code.co_code[frame.f_lasti]] == "IMPORT_FROM"


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
