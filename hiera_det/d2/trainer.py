"""The trainer: detectron2's own, with this project's optimizer, checkpointer, COCO evaluation and pictures."""

from __future__ import annotations

import os
import weakref
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, TrainerBase
from detectron2.evaluation import COCOEvaluator
from torch import nn

from hiera_det.d2.batches import build_test_loader
from hiera_det.d2.checkpoint import HieraCheckpointer
from hiera_det.d2.data import dataset_categories
from hiera_det.d2.evaluation import build_evaluator
from hiera_det.d2.pictures import PictureHook
from hiera_det.d2.precision import autocast
from hiera_det.d2.solver import build_optimizer
from hiera_det.errors import InputError

__all__ = ["Trainer"]


class Trainer(DefaultTrainer):
    """detectron2's ``DefaultTrainer`` for Hiera detectors."""

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW, or what ``SOLVER.OPTIMIZER`` says."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> COCOEvaluator:
        """COCO box and mask AP, as ``TEST.COCO_EVAL`` says; predictions go to ``OUTPUT_DIR/inference``."""
        return build_evaluator(cfg, dataset_name, output_folder or os.path.join(cfg.OUTPUT_DIR, "inference"))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """Batches of ``TEST.IMS_PER_BATCH`` images of like size."""
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> Any:
        """Evaluate on ``DATASETS.TEST``, without gradients and in the number format of ``TEST.AUTOCAST``."""
        with autocast(cfg):
            return super().test(cfg, model, evaluators)

    def state_dict(self) -> dict[str, Any]:
        """Iteration, hooks, and under ``_trainer`` the optimizer and the scaler of mixed precision."""
        # 0.6's DefaultTrainer leaves the last two out (detectron2 issue 4110); main names them so.
        return TrainerBase.state_dict(self) | {"_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave.

        Raises:
            InputError: there is no optimizer in it, or another kind's.
        """
        if "_trainer" not in state_dict:
            raise InputError(
                "--resume: the checkpoint holds no optimizer state; give it as MODEL.WEIGHTS and leave --resume out"
            )
        saved, own = (groups[0] for groups in (_groups(state_dict["_trainer"]), _groups(self._trainer.state_dict())))
        if ("betas" in saved) != ("betas" in own):  # torch would take it, and miss a key at the first step
            raise InputError("--resume: the checkpoint is of another SOLVER.OPTIMIZER; resume with its own")
        TrainerBase.load_state_dict(self, state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    def build_hooks(self) -> list[Any]:
        """detectron2's hooks, over our checkpointer, and the pictures last."""
        # DefaultTrainer builds its own checkpointer just before it asks for the hooks, which hold on to it.
        self.checkpointer = HieraCheckpointer(self.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.checkpointer.categories = dataset_categories(self.cfg.DATASETS.TRAIN[0])
        return [*super().build_hooks(), PictureHook(self.cfg)]


def _groups(inner: dict[str, Any]) -> list[dict[str, Any]]:
    """The optimizer's parameter groups in an inner trainer's state."""
    return inner["optimizer"]["param_groups"]
