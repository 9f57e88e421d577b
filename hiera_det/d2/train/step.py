"""detectron2's loop body over the engine's step: accumulated parts, mixed precision, on a CPU or a GPU."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import nn

from hiera_det.engine.loader import end_workers, unwrap
from hiera_det.engine.processes import process_rank
from hiera_det.engine.randomness import derive, seed_all
from hiera_det.engine.step import Step as EngineStep
from hiera_det.engine.stop import Stop

__all__ = ["Step"]


class _Deferred:
    """A loader whose workers start when the first batch is asked for: a resumed run sets its order before that."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader
        self.batches: Iterator[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        self.batches = iter(self.loader)
        yield from self.batches


def _files(batch: Any) -> list[str]:
    """The images' files, where the records name them."""
    samples = [sample for sample in batch if isinstance(sample, dict)] if isinstance(batch, list) else []
    return [str(sample["file_name"]) for sample in samples if "file_name" in sample]


class Step(SimpleTrainer):
    """detectron2's trainer of one step.

    Args:
        model: gives a dict of losses for a batch.
        data_loader: endless; its batches are the parts.
        optimizer: stepped once for all parts.
        accumulate: parts per step.
        precision: a key of `hiera_det.engine.precision.PRECISIONS`.
        clip_norm: largest norm of all gradients together; 0 for any.
        skip_nonfinite: steps in a row that may be left out because a loss or gradient is not finite.
        seed: what is random in a step comes from it and the step's number; None leaves the generators as they are.
        stop: ends a wait for data.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        accumulate: int = 1,
        precision: str = "float32",
        clip_norm: float = 0.0,
        skip_nonfinite: int = 0,
        seed: int | None = None,
        stop: Stop | None = None,
    ) -> None:
        self._deferred = _Deferred(data_loader)
        super().__init__(model, self._deferred, optimizer)
        self.step = EngineStep(
            model,
            optimizer,
            lambda model, batch: model(batch),
            accumulate,
            precision,
            clip_norm,
            skip_nonfinite=skip_nonfinite,
            files=_files,
        )
        self.seed, self.stop = seed, stop or Stop()
        self._data_time = 0.0

    def run_step(self) -> None:
        """Load, forward and backward for each part; then one step of the optimizer.

        Raises:
            NonFiniteError: a loss or gradient is not finite; the weights are then as they were.
            InputError: an image cannot be read.
            StopRequested: a signal came in a wait for data; the weights are as they were.
        """
        assert self.model.training
        if self.seed is not None:
            seed_all(derive(self.seed, self.iter, process_rank(), 2))
        self._data_time = 0.0
        losses = self.step(self._parts(), self.iter + 1)
        if not self.step.skipped:
            self._write_metrics(losses, self._data_time)

    def close(self) -> None:
        """Let the loader's workers go."""
        end_workers(self._deferred.batches)

    def _parts(self) -> Iterator[Any]:
        """The parts of a step; the time that they are waited for is counted."""
        for _ in range(self.step.accumulate):
            start = time.perf_counter()
            with self.stop.interruptible():
                part = unwrap(next(self._data_loader_iter))
            self._data_time += time.perf_counter() - start
            yield part

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state, and the scaler's where there is one, as detectron2's trainers name them."""
        state: dict[str, Any] = super().state_dict()
        scaler = self.step.scaler
        return state | ({"grad_scaler": scaler.state_dict()} if scaler.is_enabled() else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        super().load_state_dict(state_dict)
        if self.step.scaler.is_enabled():
            self.step.scaler.load_state_dict(state_dict["grad_scaler"])
