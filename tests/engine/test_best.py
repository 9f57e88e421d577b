"""The best checkpoint by a metric (hiera_det/engine/best.py)."""

from __future__ import annotations

import math

import pytest

from hiera_det.engine.best import Best
from hiera_det.errors import InputError


def test_only_a_higher_value_is_better_and_it_is_remembered() -> None:
    best = Best("top1")
    found = [best.improved({"top1": value}, step) for step, value in enumerate((0.5, 0.5, 0.4, 0.6, math.nan))]
    assert found == [True, False, False, True, False]
    assert (best.value, best.iteration) == (0.6, 3)
    again = Best("top1")
    again.load_state_dict(best.state_dict())
    assert not again.improved({"top1": 0.55}, 9)
    assert again.improved({"top1": 0.65}, 10)


def test_a_loss_is_better_lower() -> None:
    best = Best("ema/val_loss")
    assert [best.improved({"ema/val_loss": value}, 0) for value in (0.5, 0.6, 0.4)] == [True, False, True]


def test_a_value_of_another_metric_is_not_taken_up() -> None:
    best = Best("top5")
    best.load_state_dict({"metric": "top1", "value": 0.9, "iteration": 5})
    assert best.improved({"top5": 0.1}, 0)


def test_without_a_metric_nothing_is_best() -> None:
    assert not Best("").improved({"top1": 1.0}, 0)


def test_a_metric_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(InputError, match="best metric 'AP': the evaluation has top1, top5"):
        Best("AP").improved({"top5": 1.0, "top1": 1.0}, 0)
