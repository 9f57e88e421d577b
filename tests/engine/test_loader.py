"""Loaders of an order (hiera_det/engine/loader.py)."""

from __future__ import annotations

import os
import random
import signal
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data._utils import signal_handling

from hiera_det.engine.loader import Refused, Seeded, keyed_loader, unwrap
from hiera_det.engine.order import EpochOrder
from hiera_det.engine.stop import Stop, StopRequested
from hiera_det.errors import InputError

RECORDS = list(range(11))


def draw(record: int) -> Tensor:
    """What a random transform would: the record and one draw from each generator."""
    return torch.tensor([float(record), torch.rand(()).item(), random.random(), np.random.rand()])


def refuse(record: int) -> Tensor:
    if record == 7:
        raise InputError("7: cannot be read")
    return torch.zeros(1)


def collate(samples: list[Any]) -> Any:
    refused = [sample for sample in samples if isinstance(sample, Refused)]
    return refused[0] if refused else torch.stack(samples)


def batches(order: EpochOrder, read: Any = draw, workers: int = 0) -> list[Any]:
    return [unwrap(batch) for batch in keyed_loader(Seeded(RECORDS, read), order, workers, False, collate)]


def test_random_parts_do_not_depend_on_workers_or_on_what_was_drawn_before() -> None:
    alone = batches(EpochOrder(11, 4, 1, 0))
    torch.rand(5), np.random.rand(5), random.random()
    again = batches(EpochOrder(11, 4, 1, 0), workers=2)
    for ours, theirs in zip(alone, again, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)
    drawn = torch.cat([batch[:, 1:] for batch in alone])
    assert drawn.unique().numel() == drawn.numel()


@pytest.mark.parametrize(("order", "workers"), [([[0], [1]], 2), ([[0]] * 9, 3), ([], 0)])
def test_no_more_workers_start_than_there_are_batches(order: list[list[int]], workers: int) -> None:
    assert keyed_loader(Seeded(RECORDS, draw), order, 3, False, collate).num_workers == workers


def test_reading_leaves_the_generators_as_they_were() -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    Seeded(RECORDS, draw)[0, 5]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_read_is_one_line_from_a_worker_too(workers: int) -> None:
    with pytest.raises(InputError) as refused:
        batches(EpochOrder(11, 11, 1, 0), refuse, workers)
    assert str(refused.value) == "7: cannot be read"


def test_another_record_takes_the_place_of_one_without_anything_to_train_on() -> None:
    data = Seeded(RECORDS, lambda record: record if record > 5 else None)
    assert data[8, 0] == 8
    replaced = [data[0, seed] for seed in range(20)]
    assert set(replaced) <= set(range(6, 11))
    assert len(set(replaced)) > 1
    assert replaced == [data[0, seed] for seed in range(20)]
    nothing = Seeded(RECORDS, lambda record: None)[0, 0]
    assert isinstance(nothing, Refused)
    assert nothing.message.startswith("100 images in a row gave nothing to train on")


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux")
def test_a_signal_while_workers_are_forked_waits_until_all_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    fork, forks = os.fork, 0

    def signalled_fork() -> int:
        nonlocal forks
        forks += 1
        os.kill(os.getpid(), signal.SIGTERM)
        return fork()

    monkeypatch.setattr(os, "fork", signalled_fork)
    with Stop(), pytest.raises(StopRequested):
        batches(EpochOrder(11, 4, 1, 0), workers=2)
    assert forks == 2


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux")
def test_a_worker_that_has_only_just_begun_is_deaf_too(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = signal_handling._set_worker_signal_handlers

    def signalled_begin() -> None:
        begin()  # PyTorch's own handler of SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(signal_handling, "_set_worker_signal_handlers", signalled_begin)
    assert len(batches(EpochOrder(11, 4, 1, 0), workers=2)) == 2
