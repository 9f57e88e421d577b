"""Which image comes when: a function of the seed and of the step alone, so that going on loads nothing twice.

An order is a sampler of batches for a loader; its items are keys ``(index, seed)``, the seed that of the image's random
augmentation (`hiera_det.engine.loader.Seeded`). Workers, prefetching and where a run was stopped change nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from hiera_det.engine.processes import process_count, process_rank
from hiera_det.engine.randomness import derive

__all__ = ["EpochOrder", "Key", "StreamOrder", "shuffled"]

#: Index of an image, and seed of what is random in its augmentation.
Key: TypeAlias = tuple[int, int]
Indices: TypeAlias = npt.NDArray[np.int64]


def shuffled(length: int) -> Callable[[int], Indices]:
    """Every image once, in an order of its own for each seed."""
    return lambda seed: np.random.default_rng(seed).permutation(length)


class EpochOrder:
    """Epochs of whole steps: what is left over at the end of one, less than a step's images, is left out of it.

    The order is the same for all processes, each of which takes its part of every step. A pass over it is the rest of
    the epoch that `start_at` was given.

    Args:
        length: number of images.
        batch_size: images of a step, over all processes; at most ``length``.
        accumulate: parts of a process's share of a step, one batch each.
        seed: of the order and of the images' random parts.
    """

    def __init__(self, length: int, batch_size: int, accumulate: int, seed: int) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.part = batch_size // (accumulate * process_count())
        self.epoch = 0
        self.first = 0

    @property
    def iterations(self) -> int:
        """Steps per epoch."""
        return self.length // self.batch_size

    def start_at(self, iteration: int) -> None:
        """Go to a step, counted over all epochs."""
        self.epoch, self.first = divmod(iteration, self.iterations)

    def __len__(self) -> int:
        return (self.iterations - self.first) * (self.batch_size // self.part // process_count())

    def __iter__(self) -> Iterator[list[Key]]:
        generator = torch.Generator().manual_seed(derive(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        for start in range(self.first * self.batch_size, self.iterations * self.batch_size, self.batch_size):
            own = order[start : start + self.batch_size][process_rank() :: process_count()]
            for at in range(0, len(own), self.part):
                yield [(index, derive(self.seed, self.epoch, index, 1)) for index in own[at : at + self.part]]


class StreamOrder:
    """An endless stream of batches over shuffled epochs, each batch of one group, as detectors by aspect ratio.

    Batches are dealt out in turn: of step s, process r and part a of A in a world of W, it is batch
    ``(s A + a) W + r``. What fills no batch in an epoch waits for the next.

    Args:
        part: images of a batch.
        accumulate: A above.
        seed: of the order and of the images' random parts.
        epoch: gives the images' indices of an epoch for a seed, such as `shuffled`.
        groups: each image's group; batches do not mix them. Empty for one group.
    """

    def __init__(
        self, part: int, accumulate: int, seed: int, epoch: Callable[[int], Indices], groups: Sequence[int] = ()
    ) -> None:
        self.part, self.accumulate, self.seed, self.epoch = part, accumulate, seed, epoch
        self.groups = np.asarray(groups, dtype=np.int64)
        self.first = 0

    def start_at(self, iteration: int) -> None:
        """Go to a step of the training."""
        self.first = iteration

    def __iter__(self) -> Iterator[list[Key]]:
        start = self.first * self.accumulate * process_count() + process_rank()
        for batch in itertools.islice(self._batches(start), 0, None, process_count()):
            yield [(int(index), derive(self.seed, int(epoch), int(place), 1)) for index, epoch, place in batch]

    def _batches(self, start: int) -> Iterator[Indices]:
        """The batches from number ``start`` on: rows of index, epoch and place in the epoch."""
        waiting: dict[int, Indices] = {group: np.empty((0, 3), dtype=np.int64) for group in self._group_numbers()}
        done = 0
        for epoch in itertools.count():
            batches: list[tuple[int, Indices]] = []
            indices = self.epoch(derive(self.seed, epoch))
            rows = np.stack([indices, np.full_like(indices, epoch), np.arange(len(indices))], axis=1)
            for group, before in waiting.items():
                own = np.concatenate([before, rows[self.groups[indices] == group] if len(self.groups) else rows])
                full = len(own) - len(own) % self.part
                waiting[group] = own[full:]
                # A batch has its place in the stream where it is full.
                batches += [(int(batch[-1, 2]), batch) for batch in own[:full].reshape(-1, self.part, 3)]
            if done + len(batches) > start:
                batches.sort(key=lambda item: item[0])
                yield from (batch for _, batch in batches[max(0, start - done) :])
            done += len(batches)

    def _group_numbers(self) -> list[int]:
        return [int(group) for group in np.unique(self.groups)] or [0]
