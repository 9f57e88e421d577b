"""Batches of images or clips in an order that the seed and the epoch alone decide.

A file that cannot be read comes out of its worker process as a value, so that it ends in one line and no traceback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hiera_det.engine.processes import process_count, process_rank
from hiera_det.engine.randomness import derive, seeded
from hiera_det.errors import InputError

__all__ = ["Batch", "EpochOrder", "Samples", "collate", "eval_loader", "train_loader", "unwrap"]


class Batch(NamedTuple):
    """Some images or clips.

    Attributes:
        inputs: ``[B, 3, H, W]`` or ``[B, 3, T, H, W]``.
        labels: class indices ``[B]``; -1 where there are no classes.
        files: their paths.
    """

    inputs: Tensor
    labels: Tensor
    files: list[str]


@dataclass(frozen=True)
class Refused:
    """A file that cannot be read, and why."""

    message: str


class Samples(Dataset[Any]):
    """Files as tensors.

    Args:
        files: their paths.
        read: a path to a tensor; random parts are drawn from PyTorch's, NumPy's or Python's generators.
        labels: a class index for each; none where there are no classes.
    """

    def __init__(self, files: Sequence[str], read: Callable[[str], Tensor], labels: Sequence[int] = ()) -> None:
        self.files, self.read, self.labels = files, read, labels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int, str] | Refused:
        """The sample of ``(index, seed of its random parts)``."""
        index, seed = key
        try:
            with seeded(seed):
                tensor = self.read(self.files[index])
        except InputError as error:
            return Refused(str(error))
        return tensor, self.labels[index] if self.labels else -1, self.files[index]


class EpochOrder:
    """The batches of one process in one epoch, as ``(index, seed)`` pairs; a sampler of batches for a loader.

    Every epoch has another order, the same for all processes, each of which takes its part of every iteration. What is
    left over at the end of an epoch, less than an iteration's images, is left out of it.

    Args:
        length: number of files.
        batch_size: images of an iteration, over all processes.
        accumulate: parts into which an iteration's images are split, one forward each.
        seed: of the order and of each sample's random parts.

    Raises:
        InputError: an iteration has more images than there are, or cannot be shared out evenly.
    """

    def __init__(self, length: int, batch_size: int, accumulate: int, seed: int) -> None:
        parts = accumulate * process_count()
        if batch_size < 1 or accumulate < 1 or batch_size % parts:
            raise InputError(
                f"--batch-size {batch_size}: must be a positive multiple of {parts}, the number of processes times "
                f"--accumulate"
            )
        if batch_size > length:
            raise InputError(f"--batch-size {batch_size}: there are {length} files; lower it")
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.part = batch_size // parts
        self.epoch = 0
        self.first = 0

    @property
    def iterations(self) -> int:
        """Iterations per epoch."""
        return self.length // self.batch_size

    def start_at(self, iteration: int) -> None:
        """Go to an iteration, counted over all epochs."""
        self.epoch, self.first = divmod(iteration, self.iterations)

    def __len__(self) -> int:
        return (self.iterations - self.first) * (self.batch_size // self.part // process_count())

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(derive(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        for start in range(self.first * self.batch_size, self.iterations * self.batch_size, self.batch_size):
            own = order[start : start + self.batch_size][process_rank() :: process_count()]
            for at in range(0, len(own), self.part):
                yield [(index, derive(self.seed, self.epoch, index, 1)) for index in own[at : at + self.part]]


def train_loader(samples: Samples, order: EpochOrder, workers: int, pin: bool) -> DataLoader[Any]:
    """A loader whose every pass is the epoch that ``order`` is at; workers stay from one to the next."""
    return DataLoader(
        samples,
        batch_sampler=order,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin,
        collate_fn=collate,
    )


def eval_loader(samples: Samples, batch_size: int, workers: int, pin: bool) -> DataLoader[Any]:
    """A loader of this process's part of all samples, each once, in order."""
    own = range(process_rank(), len(samples), process_count())
    batches = [[(index, 0) for index in own[at : at + batch_size]] for at in range(0, len(own), batch_size)]
    return DataLoader(samples, batch_sampler=batches, num_workers=workers, pin_memory=pin, collate_fn=collate)


def unwrap(batch: Batch | Refused) -> Batch:
    """What a loader gives, if it could be read.

    Raises:
        InputError: a file of the batch cannot be read.
    """
    if isinstance(batch, Refused):
        raise InputError(batch.message)
    return batch


def collate(samples: list[tuple[Tensor, int, str] | Refused]) -> Batch | Refused:
    """Samples to a batch, or to the first of them that cannot be read."""
    read: list[tuple[Tensor, int, str]] = []
    for sample in samples:
        if isinstance(sample, Refused):
            return sample
        read.append(sample)
    tensors, labels, files = zip(*read, strict=True)
    return Batch(torch.stack(tensors), torch.tensor(labels), list(files))
