"""The trainer: detectron2's own, with this project's optimizer, checkpointer, COCO evaluation and pictures."""

from __future__ import annotations

import os
import weakref
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator
from torch import nn

from hiera_det.d2.checkpoint import HieraCheckpointer
from hiera_det.d2.pictures import PictureHook
from hiera_det.d2.solver import build_optimizer

__all__ = ["Trainer"]


def has_compiled_operators() -> bool:
    """Whether detectron2 was installed with its C++ operators; the pure-Python install has a stand-in that raises."""
    try:
        from detectron2 import _C

        return callable(_C.COCOevalEvaluateImages)
    except (ImportError, AttributeError, RuntimeError):
        return False


class Trainer(DefaultTrainer):
    """detectron2's ``DefaultTrainer`` for Hiera detectors."""

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW, or what ``SOLVER.OPTIMIZER`` says."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> COCOEvaluator:
        """COCO box and mask AP; predictions go to ``OUTPUT_DIR/inference``."""
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        return COCOEvaluator(dataset_name, output_dir=folder, use_fast_impl=has_compiled_operators())

    def build_hooks(self) -> list[Any]:
        """detectron2's hooks, over our checkpointer, and the pictures last."""
        # DefaultTrainer builds its own checkpointer just before it asks for the hooks, which hold on to it.
        self.checkpointer = HieraCheckpointer(self.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        return [*super().build_hooks(), PictureHook(self.cfg)]
