"""The best checkpoint of a run by a named metric, and how long there has been no better one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hiera_det.errors import InputError

__all__ = ["AUTO", "EMA", "Best", "told_best", "told_metric"]

#: The metric that is meant where nobody names one: the first of these that an evaluation has.
AUTO = "auto"
USUAL = ("bbox/AP", "segm/AP", "keypoints/AP", "panoptic_seg/PQ", "sem_seg/mIoU", "top1", "val_loss")
#: What people call metrics; those of accuracy are parts of 1.
NAMES = {"bbox/AP": "box AP", "segm/AP": "mask AP", "keypoints/AP": "keypoint AP", "panoptic_seg/PQ": "PQ"}
NAMES |= {"sem_seg/mIoU": "mIoU", "top1": "top-1", "top5": "top-5", "val_loss": "val loss"}
PARTS = ("top1", "top5")
#: Before the metrics of averaged weights.
EMA = "ema/"


class Best:
    """Remembers the best value of a metric; its state is part of the checkpoint, so that a resumed run remembers too.

    Args:
        metric: its name, such as ``bbox/AP`` or ``top1``; one that has "loss" in its name is better lower. ``auto`` for
            the usual one of the task, of the weights or of their average, whichever is better; "" for none.
        patience: evaluations in a row without a better value after which `exhausted`; 0 for any number.

    Attributes:
        metric: as given; of ``auto``, once there was an evaluation, what it stands for.
        value: the best so far; None for none.
        iteration: when it was reached.
        averaged: whether by the averaged weights.
        waited: evaluations since then.
    """

    def __init__(self, metric: str, patience: int = 0) -> None:
        self.asked = self.metric = metric
        self.patience = patience
        self.value: float | None = None
        self.iteration = self.waited = 0
        self.averaged = metric.startswith(EMA)

    def improved(self, metrics: Mapping[str, Any], iteration: int) -> bool:
        """Whether an evaluation is the best so far, which is then remembered.

        Raises:
            InputError: it has no such metric; the line lists those that it has.
        """
        if not self.asked:
            return False
        self.waited += 1
        for name in self._names(metrics):
            value = metrics[name]
            if isinstance(value, int | float) and math.isfinite(value) and self._is_better(value):
                self.value, self.iteration, self.waited = float(value), iteration, 0
                self.averaged = name.startswith(EMA)
        return not self.waited

    def _names(self, metrics: Mapping[str, Any]) -> list[str]:
        """Those of the metrics that are looked at.

        Raises:
            InputError: the named one is not there.
        """
        if self.asked == AUTO:
            if self.metric == AUTO:
                self.metric = _usual(metrics)
            return [name for name in (self.metric, EMA + self.metric) if name in metrics]
        if self.metric not in metrics:
            raise InputError(f"best metric {self.metric!r}: the evaluation has {', '.join(sorted(metrics))}")
        return [self.metric]

    def _is_better(self, value: float) -> bool:
        sign = -1.0 if "loss" in self.metric else 1.0
        return self.value is None or sign * value > sign * self.value

    @property
    def exhausted(self) -> bool:
        """Whether there was no better value for as many evaluations as the patience allows."""
        return 0 < self.patience <= self.waited

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        names = ("asked", "metric", "value", "iteration", "averaged", "waited")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave, if it was asked for the same metric."""
        if state.get("asked", state.get("metric")) == self.asked:
            self.metric, self.value, self.iteration = state["metric"], state["value"], state["iteration"]
            self.averaged, self.waited = state.get("averaged", self.averaged), state.get("waited", 0)


def _usual(metrics: Mapping[str, Any]) -> str:
    """The first usual metric that there is, else of the first data set whose name stands before it; AUTO for none."""
    plain = [name for name in metrics if not name.startswith(EMA)]
    found = (name for usual in USUAL for name in plain if name == usual or name.endswith(f"/{usual}"))
    return next(found, AUTO)


def told_best(state: Mapping[str, Any]) -> str:
    """`Best.state_dict` as half a sentence: ``box AP 41.2 at iteration 800, averaged weights``."""
    averaged = ", averaged weights" if state.get("averaged") else ""
    return (
        f"{told_metric(state['metric'].removeprefix(EMA), state['value'])} at iteration {state['iteration']}{averaged}"
    )


def told_metric(name: str, value: float, named: bool = True) -> str:
    """A metric as people say it: ``box AP 41.2``, ``top-1 71.2%``, ``val loss 0.813``.

    Args:
        name: of metrics.json, perhaps with a data set's before it.
        value: may be no number, as AP where nothing is found.
        named: say the name too.
    """
    usual = next((usual for usual in NAMES if name == usual or name.endswith(f"/{usual}")), "")
    word = f"{name.removesuffix(usual)}{NAMES[usual]}".replace("/", " ") if usual else name
    if not math.isfinite(value):
        told = "none"
    elif usual in PARTS:
        told = f"{100 * value:.1f}%"
    else:
        told = f"{value:.3f}" if "loss" in name else f"{value:.1f}"
    return f"{word} {told}" if named else told
