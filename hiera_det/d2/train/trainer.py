"""The trainer: detectron2's, with this project's schedule, step, optimizer, checkpointer, evaluation and pictures."""

from __future__ import annotations

import itertools
import logging
import os
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer, PeriodicWriter
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import nn

from hiera_det.d2.config.changes import settings_of
from hiera_det.d2.config.schedule import resolve_schedule, scale_to_processes
from hiera_det.d2.config.training import norm_of_all, train_settings
from hiera_det.d2.data.batches import build_test_loader
from hiera_det.d2.data.datasets import dataset_categories
from hiera_det.d2.data.mapper import build_loss_mapper, build_train_mapper
from hiera_det.d2.data.records import content_digest
from hiera_det.d2.data.train_loader import train_loader_from_config
from hiera_det.d2.model.across_classes import as_tested
from hiera_det.d2.model.recompute import recompute_parts
from hiera_det.d2.predict.evaluation import Evaluator, check_test_classes
from hiera_det.d2.predict.pictures import PictureHook
from hiera_det.d2.predict.precision import autocast
from hiera_det.d2.predict.report import ReportHook
from hiera_det.d2.predict.semantic import evaluator_of, parts_of
from hiera_det.d2.train.checkpoint import HieraCheckpointer
from hiera_det.d2.train.hooks import (
    BadImageCount,
    Checkpointing,
    EMAHook,
    Evaluation,
    Events,
    StoppableEvaluator,
    Stopping,
    Telling,
    split_callbacks,
)
from hiera_det.d2.train.memory import memory_told
from hiera_det.d2.train.progress import BoundedStorage, Throughput, build_writers
from hiera_det.d2.train.resume import check_settings, check_trainer_state, own_options
from hiera_det.d2.train.solver import build_optimizer
from hiera_det.d2.train.step import Step
from hiera_det.d2.train.val_loss import measure_losses
from hiera_det.engine.best import Best
from hiera_det.engine.ema import EMA
from hiera_det.engine.order import StreamOrder
from hiera_det.engine.pace import Pace
from hiera_det.engine.sharding import optimizer_state_like, whole, wrap
from hiera_det.engine.stop import Stop, StopRequested

__all__ = ["Trainer"]

logger = logging.getLogger("hiera_det.trainer")


class Trainer(DefaultTrainer):
    """detectron2's ``DefaultTrainer`` for Hiera detectors, over the engine's pieces.

    Args:
        cfg: a checked config.
        stop: entered by the caller, so that the set-up can be stopped too.
        callbacks: objects with methods of `hiera_det.engine.callbacks.Callback`, called in the first process; or
            detectron2's hooks, which come before the checkpoint of a step, so that their state is in it.

    Attributes:
        finished_steps: steps of the training that are through.
        best: the best evaluation so far.
        seed: what order, augmentation and each step's random numbers come from; the config's, or one that was drawn.
    """

    def __init__(self, cfg: CfgNode, stop: Stop | None = None, callbacks: Sequence[object] = ()) -> None:
        # DefaultTrainer's own constructor gives DDP device ids, which a CPU refuses, and knows neither accumulation,
        # bfloat16 nor FSDP; what it sets is set here.
        TrainerBase.__init__(self)
        cfg = _resolved(cfg)
        check_test_classes(cfg)
        settings = train_settings(cfg, comm.get_world_size())
        self.stop = stop or Stop()
        self._user_hooks, self.callbacks = split_callbacks(callbacks)
        self.seed = cfg.SEED if cfg.SEED >= 0 else int(comm.shared_random_seed())
        model = self.build_model(cfg)
        if settings.parallel == "fsdp":  # replaces the parameters, which the optimizer must be given
            model = wrap(model, settings.parallel)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg, self.seed)
        if settings.parallel != "fsdp":
            model = wrap(model, settings.parallel)
        step = (settings.accumulate, settings.precision, settings.clip_norm, settings.skip_nonfinite, self.seed)
        self._trainer = Step(model, loader, optimizer, *step, self.stop)
        self._bad_images = BadImageCount(loader)
        order = getattr(loader, "batch_sampler", None)
        self.order = order if isinstance(order, StreamOrder) else None
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.ema = EMA(model, settings.ema_decay) if settings.ema_decay else None
        self.checkpointer = HieraCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.checkpointer.categories = dataset_categories(cfg.DATASETS.TRAIN[0])
        self.checkpointer.ema = self.ema
        self.checkpointer.keep, self.checkpointer.period = settings.keep, settings.checkpoint_period
        self.checkpointer.settings = settings_of(cfg, settings.processes, content_digest(cfg.DATASETS.TRAIN))
        self.start_iter = self.finished_steps = 0
        self.max_iter = settings.iterations
        self.cfg, self.settings = cfg, settings
        self._last_eval_results: OrderedDict[str, Any] = OrderedDict()
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True, allow_changed: Sequence[str] = (), given: Sequence[str] = ()) -> None:
        """Load ``MODEL.WEIGHTS``, or resume; the average of weights starts from what was loaded.

        Args:
            resume: go on from the newest good checkpoint.
            allow_changed: keys that may differ from the checkpoint's.
            given: keys of the command line.

        Raises:
            InputError: the file does not fit; or the settings are not those that the training began with.
        """
        loaded = self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume:
            saved, own = loaded.get("settings", {}), self.checkpointer.settings
            check_settings(self.cfg.OUTPUT_DIR, saved, own, allow_changed, given)
        self.start_iter = self.finished_steps = self.iter + 1 if resume else 0
        if self.ema and not self.ema.steps:
            self.ema.reset()

    def train(self) -> OrderedDict[str, Any] | None:
        """Run the training, from where it stands to the end.

        Returns:
            the last evaluation's results where ``TEST.EXPECTED_RESULTS`` asks for them, else None.

        Raises:
            StopRequested: a signal stopped it; the checkpoint is written.
            InputError: an image cannot be read, a loss is not finite, or checkpoints cannot be saved.
        """
        if self.order:
            self.order.start_at(self.start_iter)
        elif self.start_iter:
            logger.warning("the order of the images starts anew: the data loader cannot be taken up in its middle")
        with self.stop, self.stop.shielded(), memory_told(self.cfg, self.settings.part):
            try:
                self._run()
            except StopRequested:
                self._checkpointing.save_stopped()
                comm.synchronize()  # the first to leave takes the others down, one of whom may be writing
                raise
            finally:
                self._trainer.close()
        self.callbacks.on_end(self.finished_steps)
        if len(self.cfg.TEST.EXPECTED_RESULTS) and comm.is_main_process():
            verify_results(self.cfg, self._last_eval_results)
            return self._last_eval_results
        return None

    def _run(self) -> None:
        """detectron2's loop, without its traceback into the log of what is told in one line."""
        logger.info("Starting training from iteration %d", self.start_iter)
        with BoundedStorage(self.start_iter) as self.storage:
            try:
                self.iter = self.start_iter
                self._events.restore()
                self.before_train()
                while self.iter < self.max_iter:  # which an evaluation may bring forward
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    self.iter += 1
                self.iter = self.max_iter
            finally:
                self.after_train()

    def run_step(self) -> None:
        """One step of the optimizer."""
        super().run_step()
        self.finished_steps = self.iter + 1

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The detector, with ``MODEL.HIERA.USE_CHECKPOINT`` in neck and heads too."""
        model: nn.Module = super().build_model(cfg)
        recompute_parts(model, cfg)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW, or what ``SOLVER.OPTIMIZER`` says; the norm of all gradients is clipped by the step, not by it."""
        if norm_of_all(cfg):
            cfg = cfg.clone()
            cfg.defrost()
            cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, seed: int = 0) -> Any:
        """Endless batches of ``SOLVER.IMS_PER_BATCH / SOLVER.ACCUMULATE`` images over all processes."""
        return train_loader_from_config(cfg, build_train_mapper(cfg), seed)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
        """AP, as ``TEST.COCO_EVAL`` says, or what `evaluator_of` has; predictions go to ``OUTPUT_DIR/inference``."""
        return evaluator_of(cfg, dataset_name, output_folder or os.path.join(cfg.OUTPUT_DIR, "inference"))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """Batches of ``TEST.IMS_PER_BATCH`` images of like size."""
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_loss_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """The same images with their objects, on which losses are measured; None where there are none to measure."""
        return None if cfg.MODEL.LOAD_PROPOSALS else build_test_loader(cfg, dataset_name, build_loss_mapper(cfg))

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> Any:
        """Evaluate on ``DATASETS.TEST``, in the number format of ``TEST.AUTOCAST`` and as `as_tested` has it."""
        with autocast(cfg), whole(model):
            return super().test(cfg, as_tested(cfg, model), evaluators)

    @classmethod
    def evaluate_checkpoint(cls, cfg: CfgNode, resume: bool) -> Any:
        """Build the model and evaluate ``MODEL.WEIGHTS``, or the output folder's last checkpoint; classes go by name.

        Raises:
            InputError: the file is not a trained detector's, or another model's, or of other classes than the data.
        """
        model = cls.build_model(cfg)
        checkpointer = HieraCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
        checkpointer.evaluated = {name: _class_names(dataset_categories(name)) for name in cfg.DATASETS.TEST}
        if resume:
            loaded = checkpointer.resume_or_load("", resume=True)
        else:
            loaded = checkpointer.load_detector(cfg.MODEL.WEIGHTS)
        checkpointer.categories = loaded.get("categories", ())
        facts = [f"{loaded['iteration'] + 1} iterations were done"] if "iteration" in loaded else []
        results = cls.test(cfg, model, cls._evaluators(cfg, "inference", checkpointer, facts))
        if comm.is_main_process():
            verify_results(cfg, results)
        return results

    @classmethod
    def _evaluators(cls, cfg: CfgNode, folder: str, checkpointer: HieraCheckpointer, facts: Sequence[str]) -> list[Any]:
        """Evaluators of ``DATASETS.TEST`` that know the model's classes, and what there is to say of its weights."""
        evaluators = [
            cls.build_evaluator(cfg, name, os.path.join(cfg.OUTPUT_DIR, folder)) for name in cfg.DATASETS.TEST
        ]
        for evaluator in itertools.chain.from_iterable(map(parts_of, evaluators)):
            if isinstance(evaluator, Evaluator):
                source = checkpointer.report.source if checkpointer.report else "the training"
                evaluator.take_classes(_class_names(checkpointer.categories), source)
                evaluator.facts += [checkpointer.origin, *facts]
        return evaluators

    def state_dict(self) -> dict[str, Any]:
        """Iteration, seed, hooks, and under ``_trainer`` the optimizer and the scaler of mixed precision."""
        # 0.6's DefaultTrainer leaves the last two out (detectron2 issue 4110); main names them so. A step that was
        # begun and not finished does not count.
        own = {"iteration": self.finished_steps - 1, "seed": self.seed, "_trainer": self._trainer.state_dict()}
        return TrainerBase.state_dict(self) | own

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave.

        Raises:
            InputError: there is no optimizer in it, or another kind's; or no average of weights where one is kept.
        """
        check_trainer_state(state_dict, self._trainer.optimizer, self.ema is not None, self.max_iter)
        TrainerBase.load_state_dict(self, state_dict)
        self._take_up_seed(state_dict.get("seed"))
        optimizer = self._trainer.optimizer
        with own_options(optimizer, self.scheduler):
            state = state_dict["_trainer"]["optimizer"]
            self._trainer.load_state_dict(
                state_dict["_trainer"] | {"optimizer": optimizer_state_like(state, optimizer)}
            )

    def _take_up_seed(self, seed: int | None) -> None:
        """Go on with the seed that the run began with, unless the config names one."""
        if seed is None:
            logger.warning("the checkpoint is of an earlier version: the order of the images starts anew")
        elif self.cfg.SEED < 0:
            self.seed = self._trainer.seed = seed
            if self.order:
                self.order.seed = seed

    def build_hooks(self) -> list[HookBase | None]:
        """detectron2's hooks in its order, with the engine's average, checkpoints, evaluation, events and stop."""
        solver, settings = self.cfg.SOLVER, self.settings
        hooks = super().build_hooks()
        replaced = (PeriodicCheckpointer, EvalHook, PeriodicWriter)
        inherited = [hook for hook in hooks if hook is not None and not isinstance(hook, replaced)]
        writers = [writer for hook in hooks if isinstance(hook, PeriodicWriter) for writer in hook._writers]
        pace, epoch = Pace(settings.checkpoint_minutes), solver.IMAGES_PER_EPOCH / solver.IMS_PER_BATCH
        period = settings.checkpoint_period
        self._checkpointing = Checkpointing(self.checkpointer, period, self.callbacks, pace, epoch)
        best = self.best = Best(settings.best, settings.patience)
        evaluation = Evaluation(
            settings.eval_period, self._evaluate, best, lambda: self._save_best(best), self.callbacks
        )
        self._events = Events(writers, evaluation)
        return [
            *inherited,
            Throughput(solver.IMS_PER_BATCH, solver.IMAGES_PER_EPOCH),
            EMAHook(self.ema) if self.ema else None,
            self._bad_images,
            *self._user_hooks,
            Telling(self.callbacks),
            self._checkpointing,
            evaluation,
            self._events,
            ReportHook(self.cfg, evaluation),
            Stopping(self.stop, next(self.model.parameters()).device),
            PictureHook(self.cfg),
        ]

    def build_writers(self) -> list[EventWriter]:
        """The log line, ``metrics.json``, TensorBoard, and ``LOGGERS``."""
        folder, solver, loggers = self.cfg.OUTPUT_DIR, self.cfg.SOLVER, self.settings.loggers
        return build_writers(folder, self.max_iter, solver.IMS_PER_BATCH, solver.IMAGES_PER_EPOCH, loggers)

    def _save_best(self, best: Best) -> None:
        """A disk that is full is tried again later, as for other checkpoints."""
        self._checkpointing.patience.save(lambda: self.checkpointer.save_best(best))

    def _evaluate(self) -> OrderedDict[str, Any]:
        """AP and losses of the weights, and under "ema" of their average."""
        results: OrderedDict[str, Any] = OrderedDict(self._test("inference") or {})
        results |= self._losses()
        self._last_eval_results = results
        if self.ema and self.cfg.DATASETS.TEST:
            logger.info("Evaluating the averaged weights")
            with self.ema.in_place():
                results["ema"] = OrderedDict(self._test("inference_ema") or {}) | self._losses()
        return results

    def _losses(self) -> dict[str, float]:
        """Those on the images of the evaluation, known to the first process as AP is."""
        if not self.cfg.TEST.VAL_LOSS or not self.cfg.DATASETS.TEST:
            return {}
        loaders = [self.build_loss_loader(self.cfg, name) for name in self.cfg.DATASETS.TEST]
        batches = itertools.chain.from_iterable(loader for loader in loaders if loader is not None)
        with autocast(self.cfg), whole(self.model):
            found = measure_losses(self.model, batches, self.stop)
        return found if comm.is_main_process() else {}

    def _test(self, folder: str) -> Any:
        """Evaluate, open to signals; predictions go to a folder of the output."""
        device = next(self.model.parameters()).device
        facts = [f"{self.finished_steps} iterations are done"]
        evaluators = self._evaluators(self.cfg, folder, self.checkpointer, facts)
        for evaluator in itertools.chain.from_iterable(map(parts_of, evaluators)):
            evaluator.must_write = False  # also of a user's own, who may look at it
        stoppable = [StoppableEvaluator(evaluator, self.stop, device) for evaluator in evaluators]
        return self.test(self.cfg, self.model, stoppable)


def _class_names(categories: Sequence[dict[str, Any]]) -> list[str]:
    return [category["name"] for category in categories]


def _resolved(cfg: CfgNode) -> CfgNode:
    """A frozen copy whose schedule is in iterations, for this number of processes."""
    cfg = cfg.clone()
    cfg.defrost()
    scale_to_processes(cfg, comm.get_world_size())
    resolve_schedule(cfg)
    cfg.freeze()
    return cfg
