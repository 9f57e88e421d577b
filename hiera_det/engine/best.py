"""The best checkpoint of a run by a named metric."""

from __future__ import annotations

import math
from typing import Any

from hiera_det.errors import InputError

__all__ = ["Best"]


class Best:
    """Remembers the best value of a metric; its state is part of the checkpoint, so that a resumed run remembers too.

    Args:
        metric: its name, such as ``bbox/AP`` or ``top1``; one that has "loss" in its name is better lower. "" for none.

    Attributes:
        value: the best so far; None for none.
        iteration: when it was reached.
    """

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self.value: float | None = None
        self.iteration = 0

    def improved(self, metrics: dict[str, Any], iteration: int) -> bool:
        """Whether an evaluation is the best so far, which is then remembered.

        Raises:
            InputError: it has no such metric; the line lists those that it has.
        """
        if not self.metric:
            return False
        if self.metric not in metrics:
            raise InputError(f"best metric {self.metric!r}: the evaluation has {', '.join(sorted(metrics))}")
        value = metrics[self.metric]
        if not isinstance(value, int | float) or not math.isfinite(value):
            return False
        sign = -1.0 if "loss" in self.metric else 1.0
        if self.value is not None and sign * value <= sign * self.value:
            return False
        self.value, self.iteration = float(value), iteration
        return True

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"metric": self.metric, "value": self.value, "iteration": self.iteration}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave, if it is of the same metric."""
        if state.get("metric") == self.metric:
            self.value, self.iteration = state["value"], state["iteration"]
