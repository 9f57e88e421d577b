"""One step of the optimizer: parts of a batch, mixed precision, clipping, and a refusal of what is not finite."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hiera_det.engine.precision import autocast
from hiera_det.engine.processes import process_count
from hiera_det.engine.sharding import without_sync
from hiera_det.errors import InputError

__all__ = ["NonFiniteError", "Step"]

logger = logging.getLogger("hiera_det.training")

#: Files that a message names.
SHOWN = 4


class NonFiniteError(InputError):
    """A loss or gradient that is no number, and what to do; no step was taken from it."""


@dataclass
class Step:
    """Takes steps; each loss is averaged over the parts as DDP averages it over processes.

    A step over k parts is that of k processes with one part each.

    Attributes:
        model: the model or its wrapper for several processes.
        optimizer: stepped once for all parts.
        losses: the model and a part of a batch to its losses by name, whose sum is minimised.
        accumulate: parts per step.
        precision: a key of `hiera_det.engine.precision.PRECISIONS`; float16 scales the loss.
        clip_norm: largest norm of all gradients together; 0 for any.
        skip_nonfinite: steps in a row that may be left out because a loss or gradient is not finite.
        files: a part of a batch to the files that it was read from, for the message.
        skipped: steps left out so far in a row.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    losses: Callable[[nn.Module, Any], Mapping[str, Tensor]]
    accumulate: int = 1
    precision: str = "float32"
    clip_norm: float = 0.0
    skip_nonfinite: int = 0
    files: Callable[[Any], Sequence[str]] = lambda part: ()
    skipped: int = 0

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "float16")

    def __call__(self, parts: Iterable[Any], iteration: int = 0) -> dict[str, Tensor]:
        """Forward and backward for each part, then one step.

        Args:
            parts: ``accumulate`` parts of a batch.
            iteration: number of the step, for the message.

        Returns:
            the losses by name, of all parts together, detached.

        Raises:
            NonFiniteError: a loss or gradient is not finite, once more than ``skip_nonfinite`` allows.
        """
        totals: dict[str, Tensor] = {}
        files: list[str] = []
        self.optimizer.zero_grad(set_to_none=True)
        for number, part in enumerate(parts, start=1):
            files += self.files(part)
            with contextlib.nullcontext() if number == self.accumulate else without_sync(self.model):
                for name, loss in self._backward(part, files, iteration).items():
                    totals[name] = totals[name] + loss if name in totals else loss
        self.scaler.unscale_(self.optimizer)
        norm = self._gradient_norm()
        if self._is_finite(norm, totals, files, iteration):
            self.scaler.step(self.optimizer)
        self.scaler.update()
        return totals

    def _backward(self, part: Any, files: Sequence[str], iteration: int) -> dict[str, Tensor]:
        """Add one part's gradients; returns its share of the losses."""
        try:
            with autocast(self.device.type, self.precision):
                losses = {name: loss / self.accumulate for name, loss in self.losses(self.model, part).items()}
                total = torch.stack([loss.float() for loss in losses.values()]).sum()
            torch.autograd.backward(self.scaler.scale(total))
        except FloatingPointError as error:  # of a model that itself refuses what is not finite, as detectron2's RPN
            nan = torch.tensor(float("nan"))
            # The other processes would wait for this one's gradients.
            if self.skipped >= self.skip_nonfinite or process_count() > 1:
                raise NonFiniteError(f"{self._message(nan, {}, files, iteration)} ({error})") from None
            weight = next(parameter for parameter in self.model.parameters() if parameter.requires_grad)
            losses = {"predictions": weight.sum() * nan}
            torch.autograd.backward(self.scaler.scale(losses["predictions"]))
        return {name: loss.detach() for name, loss in losses.items()}

    def _gradient_norm(self) -> Tensor:
        """Norm of all gradients together, which are clipped to ``clip_norm``."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        if self.clip_norm:
            norm = nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        else:
            norm = torch.stack([torch.linalg.vector_norm(parameter.grad) for parameter in parameters]).norm()
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def _is_finite(self, norm: Tensor, losses: Mapping[str, Tensor], files: Sequence[str], iteration: int) -> bool:
        """Whether a step can be taken; the processes, each of which has losses of its own, agree."""
        # float16's scaler itself leaves out steps of gradients that its factor was too large for, and lowers it.
        overflows = self.scaler.is_enabled() and self.scaler.get_scale() > 1
        checked = [*losses.values(), *(() if overflows else (norm,))]
        finite = torch.stack([torch.isfinite(value) for value in checked]).all().to(self.device, torch.float32)
        if process_count() > 1:
            dist.all_reduce(finite, op=dist.ReduceOp.MIN)
        if bool(finite):
            self.skipped = 0
            return True
        self.skipped += 1
        message = self._message(norm, losses, files, iteration)
        if self.skipped > self.skip_nonfinite:
            raise NonFiniteError(message)
        logger.warning("%s; the step is left out (%d in a row)", message, self.skipped)
        return False

    def _message(self, norm: Tensor, losses: Mapping[str, Tensor], files: Sequence[str], iteration: int) -> str:
        """What was not finite, where, and what to do."""
        terms = ", ".join(f"{name} {float(loss):.4g}" for name, loss in losses.items()) or "the model's predictions"
        named = ", ".join(files[:SHOWN]) + (", ..." if len(files) > SHOWN else "")
        lr = max(group["lr"] for group in self.optimizer.param_groups)
        return (
            f"iteration {iteration}: not finite: {terms}; gradient norm {float(norm):.4g}, learning rate {lr:.3g}, "
            f"{self.precision}, on {named or 'this batch'}; lower the learning rate or clip gradients"
        )
