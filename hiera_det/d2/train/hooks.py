"""detectron2's hooks around the engine's pieces: averaged weights, evaluation, checkpoints, events, stopping.

Their order in a step: schedule, average, checkpoint, evaluation, events, stop. A checkpoint that is written before the
evaluation knows that it is owed, so that a run that is killed in between evaluates when it goes on.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook, PeriodicWriter
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils.events import EventStorage, EventWriter

from hiera_det.d2.train.checkpoint import HieraCheckpointer
from hiera_det.d2.train.progress import MetricsWriter
from hiera_det.data.bad_images import BadImages
from hiera_det.engine.best import Best
from hiera_det.engine.callbacks import Callbacks
from hiera_det.engine.checkpoint import FINAL, Checkpoints, Patience
from hiera_det.engine.ema import EMA
from hiera_det.engine.pace import Pace
from hiera_det.engine.processes import any_process, is_main_process
from hiera_det.engine.stop import Stop, StopRequested
from hiera_det.engine.talk import say

__all__ = [
    "BadImageCount",
    "Checkpointing",
    "EMAHook",
    "Evaluation",
    "Events",
    "StoppableEvaluator",
    "Stopping",
    "Telling",
    "split_callbacks",
]

logger = logging.getLogger("hiera_det.trainer")

#: Steps over which detectron2's writers take medians, and between their lines.
WINDOW = 20
#: What is measured by the clock; a run that goes on has a clock of its own.
CLOCK = ("time", "data_time", "rank_data_time", "eta_seconds", "images_per_second", "data_share", "peak_memory_mib")


class EMAHook(HookBase):  # type: ignore[misc]
    """Updates an average after each step; its state is part of the trainer's."""

    def __init__(self, ema: EMA) -> None:
        self.ema = ema

    def after_step(self) -> None:
        """Take up the new weights."""
        self.ema.update()

    def state_dict(self) -> dict[str, Any]:
        """The average's state."""
        return self.ema.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.ema.load_state_dict(state)


class BadImageCount(HookBase):  # type: ignore[misc]
    """Puts ``bad_images`` among the metrics, how many times an image that cannot be read was replaced, and says it.

    Args:
        loader: of the training; one whose mapper does not count is left alone.
    """

    def __init__(self, loader: Any) -> None:
        mapper = getattr(getattr(loader, "dataset", None), "read", None)
        self.bad_images: BadImages | None = getattr(mapper, "bad_images", None)

    def after_step(self) -> None:
        """Put the number of the training so far, if there is one."""
        if self.bad_images and self.bad_images.count:
            self.trainer.storage.put_scalar("bad_images", self.bad_images.count, smoothing_hint=False)

    def after_train(self) -> None:
        """Say the number."""
        if self.bad_images and self.bad_images.count:
            told = "%d times another image took the place of one that cannot be read (INPUT.ON_BAD_IMAGE skip)"
            logger.warning(told, self.bad_images.count)


class Evaluation(EvalHook):  # type: ignore[misc]
    """detectron2's periodic evaluation, which catches up on one that a stopped run owes, and keeps the best weights.

    Args:
        period: steps; 0 for the end only.
        evaluate: gives detectron2's nested results.
        best: the best so far.
        save_best: writes the present weights as the best; called in all processes.
        callbacks: hear of it.
    """

    def __init__(
        self,
        period: int,
        evaluate: Callable[[], Any],
        best: Best,
        save_best: Callable[[], object],
        callbacks: Callbacks | None = None,
    ) -> None:
        super().__init__(period, evaluate)
        self.best, self.save_best, self.callbacks = best, save_best, callbacks or Callbacks()
        self.done = 0  # steps after which the last evaluation was
        self._has_ended = False  # by it, for want of patience

    def before_train(self) -> None:
        """Evaluate now what was due when the run stopped; one whose patience was at its end has nothing left to do."""
        start = self.trainer.start_iter
        due = self._period > 0 and start and start % self._period == 0 and start < self.trainer.max_iter
        if due and self.done < start:
            self.trainer.storage.iter = start - 1
            self._do_eval()
        elif self.best.exhausted and self.done == start:
            self.trainer.max_iter = start

    def after_train(self) -> None:
        """Evaluate at the end of a training that came to it, unless an evaluation has ended it."""
        if self.trainer.finished_steps >= self.trainer.max_iter and not self._has_ended:
            self._do_eval()

    def _do_eval(self) -> None:
        super()._do_eval()
        self.done = self.trainer.finished_steps
        results = self.trainer._last_eval_results
        metrics = {name: float(value) for name, value in flatten_results_dict(results or {}).items()}
        device = next(self.trainer.model.parameters()).device
        # The first process alone knows the metrics.
        improved = bool(metrics) and self.best.improved(metrics, self.done)
        if any_process(improved, device):
            self.best.averaged = any_process(improved and self.best.averaged, device)
            self.save_best()
        if any_process(self.best.exhausted, device) and self.done < self.trainer.max_iter:
            say.info("no better %s in %d evaluations: the training ends", self.best.metric, self.best.waited)
            self._has_ended, self.trainer.max_iter = True, self.done
        if metrics:
            self.callbacks.on_evaluation(self.done, metrics)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"done": self.done, "best": self.best.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.done = state["done"]
        self.best.load_state_dict(state["best"])


class Checkpointing(HookBase):  # type: ignore[misc]
    """Saves every so many steps, named as detectron2 names its checkpoints, and ``model_final`` after the last.

    Args:
        checkpointer: all processes have one; the first one writes.
        period: steps.
        callbacks: hear of it.
        pace: when one is due in between.
        epoch: steps of one, which need not be whole; 0 where unknown.
    """

    def __init__(
        self,
        checkpointer: HieraCheckpointer,
        period: int,
        callbacks: Callbacks | None = None,
        pace: Pace | None = None,
        epoch: float = 0.0,
    ) -> None:
        self.checkpointer, self.period, self.callbacks = checkpointer, period, callbacks or Callbacks()
        self.patience, self.pace, self.epoch = Patience(), pace or Pace(0), epoch
        self.saved = 0  # steps of the newest checkpoint

    def before_train(self) -> None:
        """Count the minutes from here."""
        self.pace.begin()

    def after_train(self) -> None:
        """Save at the end of a training that an evaluation has ended."""
        if self.trainer.finished_steps < self.trainer.max_iter:
            return
        if any_process(is_main_process() and not self._is_final(), self._device()):
            self.save(FINAL.removesuffix(".pth"), last=True)

    def after_step(self) -> None:
        """Save where it is time; a failure is no reason to stop until it comes again and again."""
        steps = self.trainer.finished_steps
        if steps >= self.trainer.max_iter:
            self.save(FINAL.removesuffix(".pth"), last=True)
        elif steps % self.period == 0 or self.pace.due(steps, self._ends_epoch(steps), self._device()):
            self.save(f"model_{steps - 1:07d}")

    def _ends_epoch(self, steps: int) -> bool:
        return self.epoch > 0 and steps // self.epoch > (steps - 1) // self.epoch

    def _is_final(self) -> bool:
        """Whether the newest checkpoint is that of a training's end."""
        newest = Checkpoints(self.checkpointer.save_dir).tagged()
        return newest is not None and newest.name == FINAL

    def _device(self) -> torch.device:
        return next(self.trainer.model.parameters()).device

    def save(self, name: str, last: bool = False) -> None:
        """Write a checkpoint.

        Raises:
            InputError: see `Patience`.
        """
        steps = self.trainer.finished_steps
        with self.pace.saving():
            saved = self.patience.save(lambda: self.checkpointer.save(name, iteration=steps - 1), last)
        if saved:
            self.saved = steps
            self.callbacks.on_checkpoint(steps, f"{self.checkpointer.save_dir}/{name}.pth")

    def save_stopped(self) -> None:
        """Save where a run is stopped, unless that was just done."""
        if self.trainer.finished_steps > self.saved:
            self.save(f"model_{self.trainer.finished_steps - 1:07d}", last=True)


class Telling(HookBase):  # type: ignore[misc]
    """Tells callbacks what is known of a step."""

    def __init__(self, callbacks: Callbacks) -> None:
        self.callbacks = callbacks

    def after_step(self) -> None:
        """Tell what the step itself has put into the storage."""
        if self.callbacks.listeners:
            latest = self.trainer.storage.latest().items()
            of_step = {name: float(value) for name, (value, iteration) in latest if iteration == self.trainer.iter}
            self.callbacks.on_step(self.trainer.finished_steps, of_step)


def split_callbacks(callbacks: Sequence[object]) -> tuple[list[HookBase], Callbacks]:
    """detectron2's hooks among callbacks, and the others.

    Raises:
        InputError: see `Callbacks`.
    """
    hooks = [callback for callback in callbacks if isinstance(callback, HookBase)]
    return hooks, Callbacks([callback for callback in callbacks if not isinstance(callback, HookBase)])


class Events(PeriodicWriter):  # type: ignore[misc]
    """detectron2's writers, every 20 steps and after each evaluation; what they average over outlives a stop.

    Args:
        writers: of the main process; none in the others.
        evaluation: whose results are written too.
    """

    def __init__(self, writers: list[EventWriter], evaluation: Evaluation) -> None:
        super().__init__(writers, period=WINDOW)
        self.evaluation = evaluation
        self._state: dict[str, Any] = {}

    def restore(self) -> None:
        """Take up what was measured before a stop; to be called before an evaluation that it owes adds to it."""
        _restore(self.trainer.storage, self._state)

    def before_train(self) -> None:
        """Write the line that a stop kept from being written."""
        start = self.trainer.start_iter
        written = max((writer.open(start) for writer in self._writers if isinstance(writer, MetricsWriter)), default=-1)
        for writer in self._writers:
            # detectron2's name for the last iteration that is written; the printer's is a pair, for its ETA
            if isinstance(getattr(writer, "_last_write", None), int):
                writer._last_write = written
        owed = start % WINDOW == 0 or start in (self.evaluation.done, self.trainer.max_iter)
        if written < start - 1 and owed and self._state:
            self.trainer.storage.iter = start - 1
            self._write()

    def after_step(self) -> None:
        """Write where it is time."""
        steps = self.trainer.finished_steps
        if steps % WINDOW == 0 or steps == self.trainer.max_iter or self.evaluation.done == steps:
            self._write()

    def after_train(self) -> None:
        """Write what the last evaluation has found, and close."""
        if self.trainer.finished_steps >= self.trainer.max_iter:
            self._write()
        for writer in self._writers:
            writer.close()

    def _write(self) -> None:
        for writer in self._writers:
            writer.write()

    def state_dict(self) -> dict[str, Any]:
        """The latest values, as many as medians are taken over."""
        storage = getattr(self.trainer, "storage", None)
        return _recent(storage) if storage else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep what `state_dict` gave for `restore`."""
        self._state = state


def _recent(storage: EventStorage) -> dict[str, Any]:
    """What an event storage holds of its last window, as plain values."""
    histories = {n: history.values()[-WINDOW:] for n, history in storage.histories().items() if n not in CLOCK}
    return {
        "values": {name: [list(pair) for pair in pairs] for name, pairs in histories.items()},
        "smoothed": dict(storage.smoothing_hints()),
    }


def _restore(storage: EventStorage, state: dict[str, Any]) -> None:
    """Put `_recent` values into a new event storage."""
    now = storage.iter
    for name, pairs in state.get("values", {}).items():
        for value, iteration in pairs:
            storage.iter = iteration
            storage.put_scalar(name, value, smoothing_hint=state["smoothed"][name])
    storage.iter = now


class Stopping(HookBase):  # type: ignore[misc]
    """The last hook: leaves the training after a step where a process was sent a signal.

    Args:
        stop: what the signal was noted in.
        device: of the model.
    """

    def __init__(self, stop: Stop, device: torch.device) -> None:
        self.stop, self.device = stop, device

    def after_step(self) -> None:
        """Ask all processes.

        Raises:
            StopRequested: one was.
        """
        number = self.stop.agreed(self.device)
        if number and self.trainer.finished_steps < self.trainer.max_iter:
            raise StopRequested(number)


class StoppableEvaluator(DatasetEvaluator):  # type: ignore[misc]
    """An evaluator that a signal ends after a batch, in all processes together.

    Args:
        evaluator: what evaluates.
        stop: what the signal was noted in.
        device: of the model.
    """

    def __init__(self, evaluator: DatasetEvaluator, stop: Stop, device: torch.device) -> None:
        self.evaluator, self.stop, self.device = evaluator, stop, device
        evaluator.scoring = stop.open  # also of a user's own, who may look at it

    def reset(self) -> None:
        """As the evaluator's."""
        self.evaluator.reset()

    def process(self, inputs: Any, outputs: Any) -> None:
        """As the evaluator's.

        Raises:
            StopRequested: this process was sent a signal; the others hear of it before they compute AP.
        """
        if self.stop.requested:
            self.stop.settle(self.device)
        self.evaluator.process(inputs, outputs)

    def evaluate(self) -> Any:
        """As the evaluator's.

        Raises:
            StopRequested: a process was sent a signal.
        """
        self.stop.settle(self.device)
        found = None
        with contextlib.suppress(StopRequested), self.stop.interruptible():
            found = self.evaluator.evaluate()
        self.stop.settle(self.device)  # the others have waited for the first process to compute AP
        return found
