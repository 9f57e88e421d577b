"""The order of the images, and images that cannot be read (hiera_det/engine/order.py)."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hiera_det.engine.order import EpochOrder, Samples, eval_loader, train_loader, unwrap
from hiera_det.errors import InputError

FILES = [str(number) for number in range(11)]


def draw(path: str) -> Tensor:
    """What a random transform would: the file's number and one draw from each generator."""
    return torch.tensor([float(path), torch.rand(()).item(), random.random(), np.random.rand()])


def refuse(path: str) -> Tensor:
    if path == "7":
        raise InputError("7: cannot be read")
    return torch.zeros(1)


def epoch(order: EpochOrder, iteration: int, workers: int = 0) -> list[Any]:
    order.start_at(iteration)
    return [unwrap(batch) for batch in train_loader(Samples(FILES, draw), order, workers, False)]


def test_an_epoch_has_every_image_once_but_those_that_fill_no_batch() -> None:
    order = EpochOrder(11, 4, 2, seed=3)
    batches = epoch(order, 0)
    assert [len(batch.files) for batch in batches] == [2, 2, 2, 2]
    files = [file for batch in batches for file in batch.files]
    assert len(set(files)) == 8
    assert order.iterations == 2


def test_epochs_and_seeds_have_different_orders_and_the_same_ones_the_same() -> None:
    def files(seed: int, iteration: int) -> list[str]:
        return [file for batch in epoch(EpochOrder(11, 1, 1, seed), iteration) for file in batch.files]

    assert files(0, 0) == files(0, 0)
    assert files(0, 0) != files(0, 11)
    assert files(0, 0) != files(1, 0)


def test_an_epoch_that_is_taken_up_in_the_middle_goes_on_as_it_would_have() -> None:
    whole, rest = epoch(EpochOrder(11, 4, 2, 0), 2), epoch(EpochOrder(11, 4, 2, 0), 3)
    assert len(whole) == 4
    for ours, theirs in zip(whole[2:], rest, strict=True):
        assert ours.files == theirs.files
        torch.testing.assert_close(ours.inputs, theirs.inputs, atol=0, rtol=0)


def test_random_parts_do_not_depend_on_workers_or_on_what_was_drawn_before() -> None:
    alone = epoch(EpochOrder(11, 4, 1, 0), 0)
    torch.rand(5), np.random.rand(5), random.random()
    before = torch.get_rng_state()
    again = epoch(EpochOrder(11, 4, 1, 0), 0, workers=2)
    for ours, theirs in zip(alone, again, strict=True):
        torch.testing.assert_close(ours.inputs, theirs.inputs, atol=0, rtol=0)
    drawn = torch.cat([batch.inputs[:, 1:] for batch in alone])
    assert drawn.unique().numel() == drawn.numel()
    samples = Samples(FILES, draw)
    torch.set_rng_state(before)
    samples[0, 5]
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_sees_each_image_once_in_order() -> None:
    samples = Samples(FILES, draw, list(range(11)))
    batches = [unwrap(batch) for batch in eval_loader(samples, 4, 0, False)]
    assert [file for batch in batches for file in batch.files] == FILES
    assert torch.cat([batch.labels for batch in batches]).tolist() == list(range(11))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_one_line_from_a_worker_too(workers: int) -> None:
    batches = eval_loader(Samples(FILES, refuse), 4, workers, False)
    with pytest.raises(InputError) as refused:
        list(map(unwrap, batches))
    assert str(refused.value) == "7: cannot be read"


@pytest.mark.parametrize(
    ("length", "batch", "accumulate", "says"),
    [
        (3, 4, 1, "--batch-size 4: there are 3 files; lower it"),
        (9, 3, 2, "--batch-size 3: must be a positive multiple of 2"),
        (9, 0, 1, "--batch-size 0: must be a positive multiple of 1"),
    ],
)
def test_batches_that_cannot_be_made_are_refused(length: int, batch: int, accumulate: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        EpochOrder(length, batch, accumulate, 0)
