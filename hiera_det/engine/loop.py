"""The training loop of the plain tasks: step, log, evaluate, checkpoint, stop; in one process or many.

All that is random in a step comes from the seed, its number and the process, so that a training that was stopped and
resumed gives, on a CPU, the very numbers of one that was not. Detectors run detectron2's loop over the same pieces
(`hiera_det.d2.train`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hiera_det.engine.best import Best, told_best
from hiera_det.engine.callbacks import Callbacks
from hiera_det.engine.checkpoint import BEST, CHECKPOINT, Checkpoints, Patience, check_iteration, check_unchanged
from hiera_det.engine.compilation import compile_in_place
from hiera_det.engine.ema import EMA
from hiera_det.engine.events import MetricsFile, TensorBoard
from hiera_det.engine.loader import end_workers
from hiera_det.engine.loader import unwrap as read_batch
from hiera_det.engine.loggers import open_loggers
from hiera_det.engine.optimizer import load_optimizer, set_lr
from hiera_det.engine.order import EpochOrder
from hiera_det.engine.pace import Pace
from hiera_det.engine.processes import is_main_process, process_count, process_rank, sum_over_processes
from hiera_det.engine.progress import Rate, eta
from hiera_det.engine.randomness import derive, seed_all
from hiera_det.engine.schedule import lr_at
from hiera_det.engine.settings import TrainSettings
from hiera_det.engine.sharding import gather, like, whole, wrap
from hiera_det.engine.step import Step
from hiera_det.engine.stop import Stop, StopRequested
from hiera_det.engine.talk import say
from hiera_det.errors import InputError
from hiera_det.files import require_space
from hiera_det.modeling.hiera import HieraBase
from hiera_det.weights.sources import read_weight_file
from hiera_det.weights.training_state import check_training_state

__all__ = ["Loop", "Task"]

logger = logging.getLogger("hiera_det.training")

#: Letters of another's error message that a line of ours has room for.
REASON = 200


@dataclass(frozen=True)
class Task:
    """What a loop needs to know of what is trained.

    Attributes:
        model: on its device.
        build_optimizer: called with the model, shared out where it is, for an optimizer whose groups have ``lr_scale``.
        loader: batches in the order of ``order``, with ``to(device)`` and ``files``; each a part of a step.
        order: what the loader is of.
        loss: the model and a part to its mean loss.
        lr: highest learning rate.
        warmup: steps over which it rises.
        unchanged: what a checkpoint must agree in to be gone on with, by the user's words.
        extra: what else a checkpoint is to hold, plain values.
        evaluate: called in every process with the number of epochs done; gives metrics, or none.
        evaluate_average: the same for averaged weights, where that is not ``evaluate`` itself.
        evaluate_epochs: epochs from one call of it to the next; the last epoch is always evaluated.
        report: called in the first process when metrics are written, with whether they are the best so far.
        allowed: words of ``unchanged`` that may differ all the same.
        derived: words of ``unchanged`` that follow from others.
        fixed: words of ``unchanged`` that may never differ, and what to do instead.
    """

    model: nn.Module
    build_optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    loader: Iterable[Any]
    order: EpochOrder
    loss: Callable[[nn.Module, Any], Tensor]
    lr: float
    warmup: float
    unchanged: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    evaluate: Callable[[int], Mapping[str, float]] = lambda epoch: {}
    evaluate_average: Callable[[int], Mapping[str, float]] | None = None
    evaluate_epochs: int = 1
    report: Callable[[bool], object] = lambda is_best: None
    allowed: Sequence[str] = ()
    derived: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)


class Loop:
    """One training.

    Args:
        task: what is trained.
        settings: how.
        stop: entered by the caller, so that set-up and evaluation can be stopped too.
        callbacks: hear of steps, evaluations and checkpoints.

    Attributes:
        iteration: steps done.
    """

    def __init__(
        self, task: Task, settings: TrainSettings, stop: Stop | None = None, callbacks: Callbacks | None = None
    ) -> None:
        self.task, self.settings, self.stop = task, settings, stop or Stop()
        self.callbacks = callbacks or Callbacks()
        self.model = task.model
        self.device = next(self.model.parameters()).device
        if settings.compile:
            trunk = next((module for module in self.model.modules() if isinstance(module, HieraBase)), self.model)
            compile_in_place(trunk, self.device.type, settings.word("compile"))
        wrapped = wrap(self.model, settings.parallel)
        self.optimizer = task.build_optimizer(self.model)
        self.ema = EMA(self.model, settings.ema_decay) if settings.ema_decay else None
        self.best = Best(settings.best, settings.patience)
        self.step = Step(
            wrapped,
            self.optimizer,
            lambda model, part: {"loss": task.loss(model, part)},
            settings.accumulate,
            settings.precision,
            settings.clip_norm,
            settings.skip_nonfinite,
            lambda part: part.files,
        )
        self.iteration = 0
        self._ended = 0  # step at which the last epoch was through, evaluation included
        self.checkpoints = Checkpoints(settings.output, settings.keep)
        self._patience = Patience()
        self._pace = Pace(settings.checkpoint_minutes)
        self._window: list[float] = []  # losses since the last line of the log
        self._writers: list[Any] = []

    def resume(self) -> None:
        """Go on from the newest good checkpoint of the output folder.

        Raises:
            InputError: there is none, or it was made with other settings.
        """
        path, state = self.checkpoints.newest_good(self._read)
        task = self.task
        check_unchanged(path, state["settings"], task.unchanged, task.allowed, task.derived, task.fixed)
        if state["iteration"] > self.settings.iterations:
            reached = f"iteration {state['iteration']} of {self.settings.iterations}"
            raise InputError(f"{path}: is at {reached}; train longer")
        try:
            self._load_state(state)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:REASON]
            raise InputError(f"{path}: does not fit this training ({reason}); resume with its settings") from None
        say.info("resuming at iteration %d from %s", self.iteration, path)

    def _load_state(self, state: Mapping[str, Any]) -> None:
        """Go to where a checkpoint was written."""
        own = self.model.state_dict()
        self.model.load_state_dict({n: like(x, own[n]) if n in own else x for n, x in state["model_state"].items()})
        if state["iteration"] > self.settings.skip_nonfinite and not state["optimizer"]["state"]:
            raise ValueError("the optimizer has no state")
        load_optimizer(self.optimizer, state["optimizer"])
        if self.step.scaler.is_enabled():
            self.step.scaler.load_state_dict(state.get("grad_scaler", {}))
        if self.ema:
            self.ema.load_state_dict(state["ema"]) if "ema" in state else self.ema.reset()
        self.best.load_state_dict(state.get("best", {}))
        self.iteration, self._window = state["iteration"], [float(loss) for loss in state.get("window", ())]
        self._set_lr(max(0, self.iteration - 1))  # of the last step: nothing but its evaluation may be left to do
        self._ended = int(state.get("ended", self.iteration))

    def _read(self, path: str) -> dict[str, Any]:
        """A checkpoint's content, looked at.

        Raises:
            InputError: it is damaged, or no checkpoint of a training.
        """
        state = read_weight_file(path)
        check_training_state(state, path, ("model_state", "optimizer", "iteration", "settings"))
        if not all(isinstance(state[key], dict) for key in ("model_state", "optimizer", "settings")):
            raise InputError(f"{path}: is no checkpoint of a training; the file is damaged")
        check_iteration(path, state["iteration"])
        return state

    def save(self, name: str = CHECKPOINT) -> None:
        """Write a checkpoint, from the main process; all must call it."""
        content: dict[str, Any] = {
            "model_state": _on_cpu(gather(self.model.state_dict())),
            "optimizer": gather(self.optimizer.state_dict()),
            "iteration": self.iteration,
            "ended": self._ended,
            "window": list(self._window),
            "settings": dict(self.task.unchanged),
            "best": self.best.state_dict(),
        }
        if self.ema:
            content["ema"] = gather(self.ema.state_dict())
        if self.step.scaler.is_enabled():
            content["grad_scaler"] = self.step.scaler.state_dict()
        if is_main_process():
            with self._pace.saving():
                self.checkpoints.save(name, content | dict(self.task.extra))
            self.callbacks.on_checkpoint(self.iteration, self.checkpoints.folder / name)

    def write_metrics(self, **values: Any) -> None:
        """Add a line to the metrics, with iteration and epoch, from the main process."""
        epoch = round(self.iteration / self.task.order.iterations, 4)
        for writer in self._writers:
            writer.add(iteration=self.iteration, epoch=epoch, **values)

    def run(self) -> int:
        """Train to the end.

        Returns:
            0; or the number of the signal for which the training has stopped after a checkpoint.

        Raises:
            InputError: a file cannot be read, a loss is not finite, or checkpoints cannot be saved.
        """
        with self.stop, self.stop.shielded():
            if is_main_process():
                output = self.settings.output
                require_space(output, self._required_space())
                self._writers = [MetricsFile(output, self.iteration), TensorBoard(output, self.iteration)]
                self._writers += open_loggers(self.settings.loggers, output, self.iteration)
            sent = 0
            self._pace.begin()
            try:
                while not sent and not self._is_done():
                    sent = self._end_epoch() if self._is_epoch_end() else self._run_epoch()
            finally:
                end_workers(self.task.loader)
                for writer in self._writers:
                    writer.close()
            if sent and not self._is_done():
                self._patience.save(self.save, last=True)
                # Wait for all: the first to leave takes the others down, one of whom may be writing.
                sum_over_processes(torch.zeros(1, device=self.device)).item()
                say.info("stopped by signal %d at iteration %d; --resume goes on", sent, self.iteration)
                return sent
            return 0

    def _required_space(self) -> int:
        """Bytes that checkpoints need: weights, two moments, the average; the last, the one before and a new one."""
        weights = sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())
        return weights * (4 if self.ema else 3) * (1 if self.iteration else 3)

    def _is_epoch_end(self) -> bool:
        """Whether an epoch's evaluation is due; a run that was stopped before it owes it when it goes on."""
        return self._ended < self.iteration and self.iteration % self.task.order.iterations == 0

    def _is_done(self) -> bool:
        """Whether the last epoch is through, or patience with the best was at the end of one."""
        return self._ended == self.settings.iterations or (self.best.exhausted and self._ended == self.iteration)

    def _run_epoch(self) -> int:
        """The rest of an epoch, or what a signal leaves of it; the signal's number, or 0."""
        self.step.model.train()
        order, rate = self.task.order, Rate()
        order.start_at(self.iteration)
        batches = iter(self.task.loader)
        for _ in range(order.first, order.iterations):
            try:
                parts = self._parts(batches)
            except StopRequested as request:
                return request.number
            self._window.append(self._step(parts))
            self.iteration += 1
            self.callbacks.on_step(self.iteration, {"loss": self._window[-1], "lr": self._lr()})
            rate.add(order.batch_size)
            ends = self.iteration % order.iterations == 0
            if self.iteration % self.settings.log_period == 0 or ends:
                self._log(rate.take())
            if sent := self.stop.agreed(self.device):
                return sent
            if not ends and (self._is_period() or self._pace.due(self.iteration, False, self.device)):
                self._patience.save(self.save)
        return 0

    def _is_period(self) -> bool:
        return self.iteration % self.settings.checkpoint_period == 0

    def _parts(self, batches: Iterator[Any]) -> list[Any]:
        """The next step's parts, on the device; a signal ends the wait for them."""
        with self.stop.interruptible():
            parts = [read_batch(next(batches)) for _ in range(self.settings.accumulate)]
        return [part.to(self.device) for part in parts]

    def _step(self, parts: list[Any]) -> float:
        """One step of the optimizer; the mean loss over all processes."""
        seed_all(derive(self.settings.seed, self.iteration, process_rank(), 2))
        self._set_lr(self.iteration)
        loss = self.step(parts, self.iteration + 1)["loss"]
        if self.ema:
            self.ema.update()
        return float(sum_over_processes(loss.clone())) / process_count()

    def _lr(self) -> float:
        """The highest learning rate of the last step."""
        return max(float(group["lr"] / group["lr_scale"]) for group in self.optimizer.param_groups)

    def _set_lr(self, step: int) -> None:
        set_lr(self.optimizer, lr_at(step, self.settings.iterations, self.task.warmup, self.task.lr))

    def _end_epoch(self) -> int:
        """Evaluate and save; the signal that came meanwhile, or 0."""
        epoch = self.iteration // self.task.order.iterations
        last = self.iteration == self.settings.iterations
        if last or epoch % self.task.evaluate_epochs == 0:
            try:
                self._evaluate(epoch)
            except StopRequested as request:
                logger.warning("epoch %d was not evaluated to its end", epoch)
                return request.number
        self._ended = self.iteration
        if self.best.exhausted:
            say.info("no better %s in %d evaluations: the training ends", self.best.metric, self.best.waited)
        if last or self.best.exhausted or self._is_period():
            self._patience.save(self.save, last=last)
        return self.stop.agreed(self.device)

    def _evaluate(self, epoch: int) -> None:
        """Metrics of the weights, and under "ema/" of their average; the best so far is kept."""
        with whole(self.step.model):
            metrics = dict(self.task.evaluate(epoch))
        if self.ema and metrics:
            logger.info("the averaged weights:")
            with self.ema.in_place(), whole(self.step.model):
                evaluate = self.task.evaluate_average or self.task.evaluate
                metrics |= {f"ema/{name}": value for name, value in evaluate(epoch).items()}
        if not metrics:
            return
        self.write_metrics(**metrics)
        is_best = self.best.improved(metrics, self.iteration)
        if is_best:
            logger.info("the best so far: %s", told_best(self.best.state_dict()))
            self._patience.save(self._save_best)
        if is_main_process():
            self.task.report(is_best)
        self.callbacks.on_evaluation(self.iteration, metrics)

    def _save_best(self) -> None:
        """Keep these weights as the best; a checkpoint to resume from is another file."""
        state = self.ema.model_state() if self.ema and self.best.averaged else gather(self.model.state_dict())
        if is_main_process():
            content = {"model_state": _on_cpu(state), "best": self.best.state_dict()}
            self.checkpoints.write(BEST, content | dict(self.task.extra))

    def _log(self, rate: float) -> None:
        """A line in the log and one in the metrics: the mean loss since the last."""
        loss, self._window = sum(self._window) / len(self._window), []
        lr = self._lr()
        order, total = self.task.order, self.settings.iterations
        logger.info(
            "epoch %d/%d  iteration %d/%d  loss %.4f  lr %.3g  %.1f images/s  ETA %s",
            *(math.ceil(self.iteration / order.iterations), total // order.iterations, self.iteration, total),
            *(loss, lr, rate, eta((total - self.iteration) * order.batch_size, rate)),
        )
        self.write_metrics(loss=loss, lr=lr)


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in state.items()}
