"""Batches of images or clips with their labels and files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hiera_det.engine.loader import Refused, Seeded, keyed_loader
from hiera_det.engine.order import EpochOrder
from hiera_det.engine.processes import process_count, process_rank
from hiera_det.tasks.settings import TaskSettings

__all__ = ["Batch", "Sample", "Skipped", "collate", "eval_loader", "order_of", "samples_of"]


class Sample(NamedTuple):
    """An image ``[3, H, W]`` or clip ``[3, T, H, W]``, its class index, -1 for none, and its path."""

    tensor: Tensor
    label: int
    file: str


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

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(self.inputs.to(device, non_blocking=True), self.labels.to(device, non_blocking=True), self.files)


class Skipped(NamedTuple):
    """In the place of a file that cannot be read and has no stand-in."""

    file: str


class _SampleReader:
    """Reads a file and keeps its label; an object and no closure, so that worker processes can be sent it."""

    def __init__(self, read: Callable[[str], Any], replace: bool) -> None:
        self.read, self.replace = read, replace

    def __call__(self, record: tuple[str, int]) -> Sample | Skipped | None:
        file, label = record
        tensor = self.read(file)
        # For training None draws a stand-in; an evaluation must not count another image in its place.
        if tensor is None:
            return None if self.replace else Skipped(file)
        return Sample(tensor, label, file)


def samples_of(
    files: Sequence[str], read: Callable[[str], Any], labels: Sequence[int] = (), *, replace: bool = True
) -> Seeded:
    """Files as samples.

    Args:
        files: their paths.
        read: a path to a tensor, or to None where it cannot be read and that is no reason to stop; random parts are
            drawn from PyTorch's, NumPy's or Python's generators.
        labels: a class index for each; none where there are no classes.
        replace: give another file's sample in the place of None, as for training; otherwise leave it out.
    """
    return Seeded(list(zip(files, labels or itertools.repeat(-1), strict=False)), _SampleReader(read, replace))


def order_of(settings: TaskSettings, count: int) -> EpochOrder:
    """The order of a training's files.

    Raises:
        InputError: a step has more images than there are.
    """
    if settings.batch_size > count:
        raise settings.refusal("batch_size", f"there are {count} files; lower it")
    return EpochOrder(count, settings.batch_size, settings.accumulate, settings.seed)


def eval_loader(
    samples: Seeded,
    batch_size: int,
    workers: int,
    pin: bool,
    to_batch: Callable[[list[Any]], Any] | None = None,
) -> DataLoader[Any]:
    """A loader of this process's part of all samples, each once, in order; ``to_batch`` in the place of `collate`."""
    # Each image in one process alone: a sampler that pads would count some twice in the accuracy.
    own = range(process_rank(), len(samples), process_count())
    batches = [[(index, 0) for index in own[at : at + batch_size]] for at in range(0, len(own), batch_size)]
    return keyed_loader(samples, batches, workers, pin, to_batch or collate, stay=False)


def collate(samples: list[Sample | Skipped | Refused]) -> Batch | Refused | None:
    """Samples to a batch, to the first of them that is refused, or to None where all are left out."""
    refused = next((sample for sample in samples if isinstance(sample, Refused)), None)
    if refused:
        return refused
    there = [sample for sample in samples if isinstance(sample, Sample)]
    if not there:
        return None
    tensors, labels, files = zip(*there, strict=True)
    return Batch(torch.stack(tensors), torch.tensor(labels), list(files))
