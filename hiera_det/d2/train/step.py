"""One step of the optimizer: accumulated gradients and mixed precision, on a CPU or a GPU."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from torch import Tensor, nn

from hiera_det.engine.sharding import without_sync
from hiera_det.errors import InputError

__all__ = ["PRECISIONS", "Step", "check_precision", "precision"]

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def precision(cfg: CfgNode) -> str:
    """The number format of training: "float32", or what ``SOLVER.AMP`` says."""
    return str(cfg.SOLVER.AMP.PRECISION) if cfg.SOLVER.AMP.ENABLED else "float32"


def check_precision(cfg: CfgNode) -> None:
    """Refuse a format that is none, or that the device cannot train in.

    Raises:
        InputError: the key and what to set it to.
    """
    name, device = cfg.SOLVER.AMP.PRECISION, torch.device(cfg.MODEL.DEVICE).type
    if name not in ("bfloat16", "float16"):
        raise InputError(f"SOLVER.AMP.PRECISION {name!r}: choose float16 or bfloat16")
    if not cfg.SOLVER.AMP.ENABLED:
        return
    if name == "float16" and device == "cpu":
        raise InputError(
            "SOLVER.AMP.ENABLED True with SOLVER.AMP.PRECISION float16 needs a GPU: on the CPU choose bfloat16, or "
            "SOLVER.AMP.ENABLED False"
        )
    if name == "bfloat16" and device == "cuda" and not torch.cuda.is_bf16_supported():
        raise InputError("SOLVER.AMP.PRECISION bfloat16: this GPU does not compute in it; choose float16")
    if name == "float16" and cfg.SOLVER.PARALLEL == "fsdp":
        raise InputError("SOLVER.PARALLEL fsdp: SOLVER.AMP.PRECISION float16 is for ddp; choose bfloat16")


class Step(SimpleTrainer):
    """detectron2's loop body, over several batches of data per step.

    Each loss is averaged over the parts as DDP averages it over processes: a step over k parts is that of k processes
    with one part each.

    Args:
        model: gives a dict of losses for a batch.
        data_loader: endless; its batches are the parts.
        optimizer: stepped once for all parts.
        accumulate: parts per step.
        precision: "float32", "bfloat16" or "float16"; the last scales the loss.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        accumulate: int = 1,
        precision: str = "float32",
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.accumulate = accumulate
        self.dtype = PRECISIONS[precision]
        self.device_type = next(model.parameters()).device.type
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=self.dtype is torch.float16)

    def run_step(self) -> None:
        """Load, forward and backward for each part; then one step of the optimizer.

        Raises:
            FloatingPointError: a loss is not finite; the weights are then as they were.
        """
        assert self.model.training
        self.optimizer.zero_grad()
        totals: dict[str, Tensor] = {}
        data_time = 0.0
        for part in range(1, self.accumulate + 1):
            start = time.perf_counter()
            data = next(self._data_loader_iter)
            data_time += time.perf_counter() - start
            with contextlib.nullcontext() if part == self.accumulate else without_sync(self.model):
                for name, loss in self._backward(data).items():
                    totals[name] = totals[name] + loss if name in totals else loss
        self._write_metrics(totals, data_time)
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)  # before a clipping optimizer looks at them
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _backward(self, data: Any) -> dict[str, Tensor]:
        """Add one part's gradients; returns its share of the losses."""
        with torch.autocast(self.device_type, dtype=self.dtype, enabled=self.dtype is not None):
            losses = {name: loss / self.accumulate for name, loss in self.model(data).items()}
            total = torch.stack([loss.float() for loss in losses.values()]).sum()
        torch.autograd.backward(self.scaler.scale(total))
        return {name: loss.detach() for name, loss in losses.items()}

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state, and the scaler's where there is one, as detectron2's trainers name them."""
        state: dict[str, Any] = super().state_dict()
        return state | ({"grad_scaler": self.scaler.state_dict()} if self.scaler.is_enabled() else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        super().load_state_dict(state_dict)
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state_dict["grad_scaler"])
