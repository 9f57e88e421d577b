"""The trainer: detectron2's, with this project's schedule, step, optimizer, checkpointer, evaluation and pictures."""

from __future__ import annotations

import logging
import os
import weakref
from collections import OrderedDict
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase
from detectron2.engine.hooks import EvalHook, LRScheduler, PeriodicCheckpointer
from detectron2.evaluation import COCOEvaluator, verify_results
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import nn

from hiera_det.d2.config.schedule import resolve_schedule, scale_to_processes
from hiera_det.d2.data.batches import build_test_loader
from hiera_det.d2.data.datasets import dataset_categories
from hiera_det.d2.data.mapper import build_train_mapper
from hiera_det.d2.predict.evaluation import build_evaluator
from hiera_det.d2.predict.pictures import PictureHook
from hiera_det.d2.predict.precision import autocast
from hiera_det.d2.train.checkpoint import HieraCheckpointer
from hiera_det.d2.train.progress import Throughput, build_writers
from hiera_det.d2.train.solver import build_optimizer
from hiera_det.d2.train.step import Step, precision
from hiera_det.engine.ema import EMA, EMAHook
from hiera_det.engine.sharding import is_sharded, optimizer_state_like, whole, wrap
from hiera_det.errors import InputError

__all__ = ["Trainer"]

logger = logging.getLogger("hiera_det.trainer")


class Trainer(DefaultTrainer):
    """detectron2's ``DefaultTrainer`` for Hiera detectors."""

    def __init__(self, cfg: CfgNode) -> None:
        # DefaultTrainer's own constructor gives DDP device ids, which a CPU refuses, and knows neither accumulation,
        # bfloat16 nor FSDP; what it sets is set here.
        TrainerBase.__init__(self)
        cfg = _resolved(cfg)
        parallel = cfg.SOLVER.PARALLEL
        model = self.build_model(cfg)
        if parallel == "fsdp":  # replaces the parameters, which the optimizer must be given
            model = wrap(model, parallel)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        if parallel != "fsdp":
            model = wrap(model, parallel)
        self._trainer = Step(model, loader, optimizer, cfg.SOLVER.ACCUMULATE, precision(cfg))
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.ema = EMA(model, cfg.SOLVER.EMA_DECAY) if cfg.SOLVER.EMA_DECAY else None
        self.checkpointer = HieraCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.checkpointer.categories = dataset_categories(cfg.DATASETS.TRAIN[0])
        self.checkpointer.ema = self.ema
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Load ``MODEL.WEIGHTS``, or resume; the average of weights starts from what was loaded."""
        super().resume_or_load(resume)
        if self.ema and not self.ema.steps:
            self.ema.reset()

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW, or what ``SOLVER.OPTIMIZER`` says."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """Endless batches of ``SOLVER.IMS_PER_BATCH / SOLVER.ACCUMULATE`` images over all processes."""
        part = cfg.clone()
        part.defrost()
        part.SOLVER.IMS_PER_BATCH //= cfg.SOLVER.ACCUMULATE
        return build_detection_train_loader(part, mapper=build_train_mapper(part))

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
        with autocast(cfg), whole(model):
            return super().test(cfg, model, evaluators)

    @classmethod
    def evaluate_checkpoint(cls, cfg: CfgNode, resume: bool) -> Any:
        """Build the model and evaluate ``MODEL.WEIGHTS``, or the output folder's last checkpoint.

        Raises:
            InputError: the file is not a trained detector's, or another model's.
        """
        model = cls.build_model(cfg)
        checkpointer = HieraCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
        if resume:
            checkpointer.resume_or_load("", resume=True)
        else:
            checkpointer.load_detector(cfg.MODEL.WEIGHTS)
        results = cls.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results

    def state_dict(self) -> dict[str, Any]:
        """Iteration, hooks, and under ``_trainer`` the optimizer and the scaler of mixed precision."""
        # 0.6's DefaultTrainer leaves the last two out (detectron2 issue 4110); main names them so.
        return TrainerBase.state_dict(self) | {"_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave.

        Raises:
            InputError: there is no optimizer in it, or another kind's; or no average of weights where one is kept.
        """
        if "_trainer" not in state_dict:
            raise InputError(
                "--resume: the checkpoint holds no optimizer state; give it as MODEL.WEIGHTS and leave --resume out"
            )
        saved, own = (groups[0] for groups in (_groups(state_dict["_trainer"]), _groups(self._trainer.state_dict())))
        if ("betas" in saved) != ("betas" in own):  # torch would take it, and miss a key at the first step
            raise InputError("--resume: the checkpoint is of another SOLVER.OPTIMIZER; resume with its own")
        if self.ema and EMAHook.__qualname__ not in state_dict.get("hooks", {}):
            raise InputError("--resume: the checkpoint has no averaged weights; resume with SOLVER.EMA_DECAY 0.0")
        TrainerBase.load_state_dict(self, state_dict)
        inner = dict(state_dict["_trainer"])
        inner["optimizer"] = optimizer_state_like(inner["optimizer"], self._trainer.optimizer)
        self._trainer.load_state_dict(inner)

    def build_hooks(self) -> list[HookBase]:
        """detectron2's hooks, our evaluation among them, the average of weights, throughput, and the pictures last."""
        solver = self.cfg.SOLVER
        hooks = [
            EvalHook(self.cfg.TEST.EVAL_PERIOD, self._evaluate) if isinstance(hook, EvalHook) else hook
            for hook in super().build_hooks()
        ]
        if is_sharded(self.model) and not comm.is_main_process():  # all have a part of what is saved
            at = next(index for index, hook in enumerate(hooks) if isinstance(hook, EvalHook))
            hooks.insert(at, PeriodicCheckpointer(self.checkpointer, solver.CHECKPOINT_PERIOD))
        after_lr = 1 + next(index for index, hook in enumerate(hooks) if isinstance(hook, LRScheduler))
        own: list[HookBase] = [Throughput(solver.IMS_PER_BATCH, solver.IMAGES_PER_EPOCH)]
        if self.ema:
            own.append(EMAHook(self.ema))
        return [*hooks[:after_lr], *own, *hooks[after_lr:], PictureHook(self.cfg)]

    def build_writers(self) -> list[EventWriter]:
        """The log line, ``metrics.json`` and TensorBoard."""
        solver = self.cfg.SOLVER
        return build_writers(self.cfg.OUTPUT_DIR, self.max_iter, solver.IMS_PER_BATCH, solver.IMAGES_PER_EPOCH)

    def _evaluate(self) -> OrderedDict[str, Any]:
        """AP of the weights, and under "ema" of their average."""
        results: OrderedDict[str, Any] = OrderedDict(self.test(self.cfg, self.model) or {})
        self._last_eval_results = results
        if self.ema and self.cfg.DATASETS.TEST:
            logger.info("Evaluating the averaged weights")
            folder = os.path.join(self.cfg.OUTPUT_DIR, "inference_ema")
            evaluators = [self.build_evaluator(self.cfg, name, folder) for name in self.cfg.DATASETS.TEST]
            with self.ema.in_place():
                results["ema"] = self.test(self.cfg, self.model, evaluators)
        return results


def _resolved(cfg: CfgNode) -> CfgNode:
    """A frozen copy whose schedule is in iterations, for this number of processes."""
    cfg = cfg.clone()
    cfg.defrost()
    scale_to_processes(cfg, comm.get_world_size())
    resolve_schedule(cfg)
    cfg.freeze()
    return cfg


def _groups(inner: dict[str, Any]) -> list[dict[str, Any]]:
    """The optimizer's parameter groups in an inner trainer's state."""
    return inner["optimizer"]["param_groups"]
