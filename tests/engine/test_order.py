"""The order of the images (hiera_det/engine/order.py)."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from hiera_det.engine import order as orders
from hiera_det.engine.order import EpochOrder, Key, StreamOrder, shuffled


def place(monkeypatch: pytest.MonkeyPatch, rank: int, count: int) -> None:
    """Be one process of several."""
    monkeypatch.setattr(orders, "process_rank", lambda: rank)
    monkeypatch.setattr(orders, "process_count", lambda: count)


def epoch(order: EpochOrder, iteration: int = 0) -> list[list[Key]]:
    order.start_at(iteration)
    batches = list(order)
    assert len(batches) == len(order)
    return batches


def test_an_epoch_has_every_image_once_but_those_that_fill_no_step() -> None:
    order = EpochOrder(11, 4, 2, seed=3)
    batches = epoch(order)
    assert [len(batch) for batch in batches] == [2, 2, 2, 2]
    assert len({index for batch in batches for index, _ in batch}) == 8
    assert order.iterations == 2


def test_epochs_and_seeds_have_different_orders_and_the_same_ones_the_same() -> None:
    def keys(seed: int, iteration: int) -> list[list[Key]]:
        return epoch(EpochOrder(11, 1, 1, seed), iteration)

    assert keys(0, 0) == keys(0, 0)
    assert keys(0, 0) != keys(0, 11)
    assert keys(0, 0) != keys(1, 0)
    assert len({seed for batch in keys(0, 0) for _, seed in batch}) == 11


def test_an_epoch_that_is_taken_up_in_the_middle_goes_on_as_it_would_have() -> None:
    assert epoch(EpochOrder(11, 4, 2, 0), 3) == epoch(EpochOrder(11, 4, 2, 0), 2)[2:]


def test_processes_share_each_step_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = epoch(EpochOrder(13, 4, 1, 0))
    shares = []
    for rank in (0, 1):
        place(monkeypatch, rank, 2)
        shares.append(epoch(EpochOrder(13, 4, 1, 0)))
    for step, *parts in zip(alone, *shares, strict=True):
        assert sorted(step) == sorted(key for part in parts for key in part)
        assert [len(part) for part in parts] == [2, 2]


def test_a_stream_goes_through_all_images_epoch_by_epoch_and_drops_none() -> None:
    order = StreamOrder(4, 1, 0, shuffled(10))
    indices = [index for batch in islice(order, 5) for index, _ in batch]
    for start in (0, 10):
        assert sorted(indices[start : start + 10]) == list(range(10))
    assert indices[:10] != indices[10:]


@pytest.mark.parametrize("groups", [(), (0, 1, 0, 0, 1, 0, 0, 1, 1, 0, 0)])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("iteration", [1, 4, 9])
def test_a_stream_that_starts_at_a_step_is_one_that_skipped_the_steps_before(
    groups: tuple[int, ...], accumulate: int, iteration: int
) -> None:
    whole, rest = (StreamOrder(2, accumulate, 5, shuffled(11), groups) for _ in range(2))
    rest.start_at(iteration)
    skipped = islice(whole, iteration * accumulate, None)
    assert list(islice(rest, 12)) == list(islice(skipped, 12))


def test_batches_of_a_stream_do_not_mix_groups_and_lose_no_image() -> None:
    groups = (0, 1, 0, 0, 1, 0, 0, 1, 1, 0, 0)
    batches = list(islice(StreamOrder(2, 1, 0, shuffled(11), groups), 55))  # ten epochs
    assert all(len({groups[index] for index, _ in batch}) == 1 for batch in batches)
    counts = np.bincount([index for batch in batches for index, _ in batch], minlength=11)
    assert counts.min() >= 9
    assert counts.max() <= 11


def test_processes_are_dealt_the_batches_of_a_stream_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = (0, 1, 0, 0, 1, 0, 0, 1, 1, 0, 0)
    alone = list(islice(StreamOrder(2, 3, 7, shuffled(11), groups), 24))
    for rank in (0, 1):
        place(monkeypatch, rank, 2)
        assert list(islice(StreamOrder(2, 3, 7, shuffled(11), groups), 12)) == alone[rank::2]
        later = StreamOrder(2, 3, 7, shuffled(11), groups)
        later.start_at(2)
        assert list(islice(later, 6)) == alone[rank::2][6:]


def test_each_image_of_a_stream_has_a_seed_of_its_own_in_each_epoch() -> None:
    seeds = [seed for batch in islice(StreamOrder(5, 1, 0, shuffled(10)), 8) for _, seed in batch]
    assert len(set(seeds)) == len(seeds) == 40
