"""When a checkpoint is due (hiera_det/engine/pace.py), by a clock that the test turns."""

from __future__ import annotations

import pytest
import torch

from hiera_det.engine import pace
from hiera_det.engine.pace import Pace

CPU = torch.device("cpu")


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def test_no_more_than_the_minutes_pass(clock: Clock) -> None:
    ten = Pace(10)
    clock.now = 599
    assert not ten.due(1, False, CPU)
    clock.now = 600
    assert ten.due(2, False, CPU)
    with ten.saving():
        clock.now = 700
    clock.now = 1299
    assert not ten.due(3, False, CPU)


def test_an_epochs_end_is_a_reason_unless_saving_takes_more_than_a_twentieth(clock: Clock) -> None:
    ten = Pace(10)
    assert ten.due(1, True, CPU)
    with ten.saving():
        clock.now = 2
    clock.now = 41
    assert not ten.due(2, True, CPU)
    clock.now = 42
    assert ten.due(3, True, CPU)


def test_zero_minutes_leave_it_to_the_period(clock: Clock) -> None:
    clock.now = 1e6
    assert not Pace(0).due(1, True, CPU)
