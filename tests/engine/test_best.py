"""The best checkpoint by a metric (hiera_det/engine/best.py)."""

from __future__ import annotations

import math

import pytest

from hiera_det.engine.best import Best, told_best
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


def test_auto_is_the_tasks_usual_metric_of_weights_or_average_whichever_is_better() -> None:
    best = Best("auto")
    assert best.improved({"val_loss": 1.0, "mine/bbox/AP": 20.0, "ema/mine/bbox/AP": 30.0}, 1)
    assert (best.metric, best.value, best.averaged) == ("mine/bbox/AP", 30.0, True)
    again = Best("auto")
    again.load_state_dict(best.state_dict())
    assert not again.improved({"mine/bbox/AP": 29.0}, 2)
    assert again.improved({"mine/bbox/AP": 31.0, "ema/mine/bbox/AP": 30.5}, 3)
    assert not again.averaged
    assert told_best(again.state_dict()) == "mine box AP 31.0 at iteration 3"
    nothing = Best("auto")
    assert not nothing.improved({"own/score": 1.0}, 1)
    assert nothing.improved({"val_loss": 1.0}, 2)


def test_patience_counts_evaluations_over_a_resume() -> None:
    best = Best("top1", patience=2)
    for value in (0.5, 0.4):
        best.improved({"top1": value}, 1)
    assert not best.exhausted
    again = Best("top1", patience=2)
    again.load_state_dict(best.state_dict())
    again.improved({"top1": math.nan}, 2)
    assert again.exhausted
    assert again.improved({"top1": 0.6}, 3)
    assert not again.exhausted
