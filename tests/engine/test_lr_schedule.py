"""The learning rate over the iterations, and what recipes make of a batch and a number of epochs."""

from __future__ import annotations

import math

import pytest

from hiera_det.engine.schedule import lr_at
from hiera_det.tasks.recipes import FINETUNING, PRETRAINING, scaled_lr, warmup_for


def test_the_rate_rises_to_its_peak_and_falls_towards_zero() -> None:
    rates = [lr_at(iteration, 100, 10, 2.0) for iteration in range(100)]
    assert rates[0] > 0
    assert rates[:11] == sorted(rates[:11])
    assert rates[10] == max(rates) == 2.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(1.0)
    assert 0 < rates[99] < 2.0 * 0.001


def test_without_warm_up_the_first_rate_is_the_peak() -> None:
    assert lr_at(0, 10, 0, 1.0) == 1.0


def test_a_warm_up_of_the_whole_training_only_rises() -> None:
    rates = [lr_at(iteration, 4, 4, 1.0) for iteration in range(4)]
    assert rates == sorted(rates)
    assert all(math.isfinite(rate) and 0 < rate < 1 for rate in rates)


def test_a_recipes_rate_is_scaled_to_the_batch() -> None:
    recipe = PRETRAINING["base"]
    assert scaled_lr(recipe.lr, recipe.lr_batch, 4096) == 8e-4
    assert scaled_lr(recipe.lr, recipe.lr_batch, 64) == 8e-4 / 64


def test_warm_up_is_the_recipes_in_a_whole_run_and_its_share_in_a_short_one() -> None:
    assert warmup_for(1600, PRETRAINING["base"]) == 40
    assert warmup_for(800, PRETRAINING["base"]) == 40
    assert warmup_for(100, PRETRAINING["base"]) == pytest.approx(5)
    assert warmup_for(50, FINETUNING["large"]) == 5
    assert warmup_for(2, FINETUNING["large"]) == pytest.approx(0.2)
