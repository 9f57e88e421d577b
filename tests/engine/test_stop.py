"""Signals (hiera_det/engine/stop.py); real processes that are sent some are in tests/tasks/test_faults.py."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
import torch

from hiera_det.engine.stop import SIGNALS, Stop, StopRequested, held_back, ignore_signals
from hiera_det.errors import exit_status

CPU = torch.device("cpu")


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def test_statuses_are_those_of_shells() -> None:
    assert exit_status(signal.SIGTERM) == 143
    assert exit_status(signal.SIGINT) == 130
    assert exit_status(signal.SIGUSR1) == 143


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_raises_at_once_but_where_it_is_only_noted(number: int) -> None:
    with Stop() as stop, pytest.raises(StopRequested) as raised:
        send(number)
    assert raised.value.number == number
    with Stop() as stop, stop.shielded():
        send(number)
        assert stop.requested == stop.agreed(CPU) == number


def test_a_wait_inside_is_open_to_a_signal_that_came_before_it_and_to_one_in_it() -> None:
    with Stop() as stop, stop.shielded():
        with pytest.raises(StopRequested), stop.interruptible():
            send()
        with pytest.raises(StopRequested), stop.interruptible():
            raise AssertionError("the signal had come before")
        assert stop.requested


def test_a_signal_that_is_held_back_acts_at_the_end() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with held_back():
            send()
            assert seen == []
        deadline = time.monotonic() + 10  # by way of another thread it comes a moment later
        while not seen and time.monotonic() < deadline:
            time.sleep(0.01)
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_handler_that_was_there_is_called_and_comes_back() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        ours = signal.getsignal(signal.SIGTERM)
        with Stop() as stop, stop, stop.shielded():  # entered twice, as by a caller and the loop
            send()
        assert seen == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_comes_twice_in_a_moment_is_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    with Stop() as stop, stop.shielded():
        send()
        send()
        assert left == []
        later = time.monotonic() + 60
        monkeypatch.setattr(time, "monotonic", lambda: later)
        send(signal.SIGINT)
        assert left == [130]


def test_a_hang_up_counts_once_and_not_where_nohup_ignores_it(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    with Stop() as stop, stop.shielded():
        send()
        later = time.monotonic() + 60
        monkeypatch.setattr(time, "monotonic", lambda: later)
        send(signal.SIGHUP)
        assert (stop.requested, left) == (signal.SIGTERM, [])
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            send(signal.SIGHUP)
        assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_evaluation_is_cut_short_and_then_raises() -> None:
    seen: list[int] = []
    with Stop() as stop, stop.shielded():
        for batch in stop.cut(range(5)):
            seen.append(batch)
            if batch == 2:
                send()
        with pytest.raises(StopRequested):
            stop.settle(CPU)
    assert seen == [0, 1, 2]
    assert list(Stop().cut(range(3))) == [0, 1, 2]
    Stop().settle(CPU)


def test_workers_are_deaf() -> None:
    before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        ignore_signals(0)
        for number in SIGNALS:
            send(number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
