"""The training loop: forward, backward, step, log, checkpoint, stop; in one process or many.

All that is random in an iteration comes from the seed, its number and the process, so that a run that was stopped and
resumed gives, on a CPU, the very numbers of one that was not.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hiera_det.engine.checkpoint import check_settings, read_checkpoint, write_checkpoint
from hiera_det.engine.events import MetricsFile
from hiera_det.engine.optimizer import set_lr
from hiera_det.engine.order import Batch, EpochOrder, Samples, train_loader, unwrap
from hiera_det.engine.processes import is_main_process, process_count, process_rank, sum_over_processes
from hiera_det.engine.randomness import derive, seed_all
from hiera_det.engine.schedule import lr_at
from hiera_det.errors import InputError
from hiera_det.modeling.hiera import HieraBase

__all__ = ["PRECISIONS", "Loop", "Plan"]

logger = logging.getLogger("hiera_det.training")

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SHOWN = 4

#: A model and a batch on its device to the mean loss of the batch.
LossFunction = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class Plan:
    """How a model is trained, once it, its data and its optimizer are there.

    Attributes:
        output: folder for checkpoints and metrics.
        epochs: passes over the images.
        warmup_epochs: those over which the learning rate rises.
        lr: its highest value, at this batch.
        accumulate: parts of a batch.
        seed: of everything random.
        precision: a key of `PRECISIONS`.
        workers: processes that read images, for each that trains.
        log_period: iterations from one line of the log to the next.
        checkpoint_epochs: epochs from one checkpoint to the next.
        clip_norm: largest norm of all gradients together; 0 for any.
    """

    output: str
    epochs: int
    warmup_epochs: float
    lr: float
    accumulate: int = 1
    seed: int = 0
    precision: str = "float32"
    workers: int = 0
    log_period: int = 20
    checkpoint_epochs: int = 1
    clip_norm: float = 0.0


class Loop:
    """One training.

    Args:
        model: on its device.
        optimizer: of `hiera_det.engine.optimizer.build_adamw`.
        samples: what to train on.
        order: its batches.
        loss: called for each part of a batch.
        plan: the rest.
        settings: what a checkpoint must agree in to be gone on with, plain values.
        extra: what else a checkpoint is to hold, plain values.

    Attributes:
        iteration: how many are done.
    """

    def __init__(
        self,
        model: HieraBase,
        optimizer: torch.optim.Optimizer,
        samples: Samples,
        order: EpochOrder,
        loss: LossFunction,
        plan: Plan,
        settings: Mapping[str, Any],
        extra: Mapping[str, Any],
    ) -> None:
        self.model, self.optimizer, self.loss, self.plan = model, optimizer, loss, plan
        self.order, self.settings, self.extra = order, dict(settings), dict(extra)
        self.device = next(model.parameters()).device
        self.wrapped: nn.Module = model
        if process_count() > 1:
            self.wrapped = DistributedDataParallel(
                model, device_ids=[self.device.index] if self.device.type == "cuda" else None
            )
        self.loader = train_loader(samples, order, plan.workers, self.device.type == "cuda")
        self.iteration = 0
        self._window: list[float] = []  # losses since the last line of the log
        self._signal = 0
        self._metrics: MetricsFile | None = None

    @property
    def iterations(self) -> int:
        """How many there are in all."""
        return self.plan.epochs * self.order.iterations

    def resume(self, path: str) -> None:
        """Go on from a checkpoint.

        Raises:
            InputError: it is damaged, or was made with other settings.
        """
        state = read_checkpoint(path)
        check_settings(path, state["settings"], self.settings)
        self.model.load_state_dict(state["model_state"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration, self._window = state["iteration"], list(state["window"])
        logger.info("resuming at iteration %d from %s", self.iteration, path)

    def save(self) -> None:
        """Write a checkpoint, from the main process."""
        if is_main_process():
            state = {name: tensor.detach().cpu() for name, tensor in self.model.state_dict().items()}
            content = {
                "model_state": state,
                "optimizer": self.optimizer.state_dict(),
                "iteration": self.iteration,
                "window": self._window,
                "settings": self.settings,
            }
            write_checkpoint(self.plan.output, content | self.extra)

    def write_metrics(self, **values: Any) -> None:
        """Add a line to ``metrics.json``, with iteration and epoch, from the main process."""
        if self._metrics:
            epoch = self.iteration / self.order.iterations
            self._metrics.add(iteration=self.iteration, epoch=round(epoch, 4), **values)

    def run(self, after_epoch: Callable[[int], None]) -> int:
        """Train to the end.

        Args:
            after_epoch: called in every process with the number of epochs done, before that epoch's checkpoint.

        Returns:
            0; or the number of the signal, SIGTERM or SIGINT, for which the training has stopped after an iteration
            and a checkpoint.

        Raises:
            InputError: a file cannot be read, or the loss is not finite.
        """
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            if is_main_process():
                self._metrics = MetricsFile(self.plan.output, self.iteration)
            while self.iteration < self.iterations:
                self.order.start_at(self.iteration)
                stopped = self._run_epoch()
                done, rest = divmod(self.iteration, self.order.iterations)
                if not rest:
                    after_epoch(done)
                if stopped or done % self.plan.checkpoint_epochs == 0 or self.iteration == self.iterations:
                    self.save()
                if stopped and self.iteration < self.iterations:
                    # Wait for all: the first to leave takes the others down, one of whom may be writing.
                    sum_over_processes(torch.zeros(1, device=self.device)).item()
                    logger.info("stopped by signal %d at iteration %d; --resume goes on", stopped, self.iteration)
                    return stopped
            return 0
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Stop after the iteration; at the second signal, at once."""
        if self._signal:
            raise KeyboardInterrupt
        self._signal = number

    def _run_epoch(self) -> int:
        """The rest of an epoch, or what a signal leaves of it; the signal's number, or 0."""
        self.wrapped.train()
        stop = 0
        batches = iter(self.loader)
        since, images = time.perf_counter(), 0
        for _ in range(self.order.first, self.order.iterations):
            loss, stop = self._step([self._to_device(unwrap(next(batches))) for _ in range(self.plan.accumulate)])
            self.iteration += 1
            self._window.append(loss)
            images += self.order.batch_size
            last = self.iteration % self.order.iterations == 0
            if self.iteration % self.plan.log_period == 0 or last:
                self._log(images / (time.perf_counter() - since))
                since, images = time.perf_counter(), 0
            if stop:
                break
        return stop

    def _to_device(self, batch: Batch) -> Batch:
        return batch._replace(
            inputs=batch.inputs.to(self.device, non_blocking=True), labels=batch.labels.to(self.device)
        )

    def _step(self, parts: list[Batch]) -> tuple[float, int]:
        """One step of the optimizer; the mean loss, and the signal that some process was sent."""
        seed_all(derive(self.plan.seed, self.iteration, process_rank(), 2))
        warmup = self.plan.warmup_epochs * self.order.iterations
        lr = lr_at(self.iteration, self.iterations, warmup, self.plan.lr)
        set_lr(self.optimizer, lr)
        total = torch.zeros(2)
        for number, batch in enumerate(parts, start=1):
            with self._no_sync(number < len(parts)):
                with self._autocast():
                    loss = self.loss(self.wrapped, batch)
                total[0] += self._finite(loss, batch) / len(parts)
                torch.autograd.backward(loss / len(parts))
        if self.plan.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        total[1] = self._signal
        shared = sum_over_processes(total.to(self.device))
        # Signals of several processes add up to none that is known: all are then taken for what a scheduler sends.
        sent = round(float(shared[1]))
        return float(shared[0]) / process_count(), sent if sent in (0, signal.SIGINT) else int(signal.SIGTERM)

    def _finite(self, loss: Tensor, batch: Batch) -> float:
        """The loss as a number; refuses to go on from one that is none."""
        value = loss.item()
        if not math.isfinite(value):
            files = ", ".join(batch.files[:SHOWN]) + (", ..." if len(batch.files) > SHOWN else "")
            raise InputError(
                f"iteration {self.iteration + 1}: the loss is {value} on {files}; lower --lr, or --resume in "
                "--precision float32"
            )
        return value

    def _no_sync(self, waits: bool) -> AbstractContextManager[Any]:
        """Gradients are summed over the processes with the last part of a batch."""
        return self.wrapped.no_sync() if waits and isinstance(self.wrapped, DistributedDataParallel) else nullcontext()

    def _autocast(self) -> torch.autocast:
        dtype = PRECISIONS[self.plan.precision]
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16)

    def _log(self, rate: float) -> None:
        """A line in the log and one in the metrics: the mean loss since the last."""
        loss, self._window = sum(self._window) / len(self._window), []
        lr = max(group["lr"] / group["lr_scale"] for group in self.optimizer.param_groups)
        left = (self.iterations - self.iteration) * self.order.batch_size / rate
        logger.info(
            "epoch %d/%d  iteration %d/%d  loss %.4f  lr %.3g  %.1f images/s  ETA %s",
            math.ceil(self.iteration / self.order.iterations),
            self.plan.epochs,
            self.iteration,
            self.iterations,
            loss,
            lr,
            rate,
            timedelta(seconds=round(left)),
        )
        self.write_metrics(loss=loss, lr=lr)
