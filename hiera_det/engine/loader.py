"""Loaders whose images' random parts come from their keys, and whose refusals come out of workers in one line."""

from __future__ import annotations

import multiprocessing.queues
import multiprocessing.util
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from hiera_det.engine.machine import workers_by_memory
from hiera_det.engine.order import Key
from hiera_det.engine.randomness import derive, seeded
from hiera_det.engine.stop import held_back, ignore_signals
from hiera_det.errors import InputError

__all__ = ["Refused", "Seeded", "end_workers", "keyed_loader", "unwrap"]

#: Images tried in place of one that has nothing to train on.
REPLACEMENTS = 100
NO_SHARED_MEMORY = (
    "a process that reads images cannot pass a batch on: give more shared memory (docker run --shm-size 8g) or use "
    "fewer workers; --resume goes on"
)
#: How workers are started: also in a process that was not forked itself, so that they are there in a moment and are
#: never without an ear for signals. Elsewhere than on Linux as Python does.
FORK = "fork" if sys.platform == "linux" else None


@dataclass(frozen=True)
class Refused:
    """What cannot be read, and why; a value, because an exception out of a worker is a traceback."""

    message: str


class Seeded(Dataset[Any]):
    """Records as samples, what is random in them drawn from their keys' seeds.

    Args:
        records: what is read.
        read: a record to a sample; random parts are drawn from PyTorch's, NumPy's or Python's generators. None where it
            gives nothing to train on: another record, which the seed decides, takes its place.
    """

    def __init__(self, records: Sequence[Any], read: Callable[[Any], Any]) -> None:
        self.records, self.read = records, read

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: Key) -> Any:
        index, seed = key
        try:
            for attempt in range(1, REPLACEMENTS):
                with seeded(seed):
                    sample = self.read(self.records[index])
                if sample is not None:
                    return sample
                index = derive(seed, attempt) % len(self)
        except InputError as error:
            return Refused(str(error))
        return Refused(f"{REPLACEMENTS} images in a row gave nothing to train on; look at the data and the crop")


class _Loader(DataLoader[Any]):
    """PyTorch's, whose workers are forked without a signal in the midst of it."""

    def check_worker_number_rationality(self) -> None:
        """Say nothing: `workers_by_cores` has said it in a line."""

    def _get_iterator(self) -> Any:
        with held_back():
            return super()._get_iterator()


def keyed_loader(
    data: Dataset[Any],
    order: Any,
    workers: int,
    pin: bool,
    collate: Callable[[list[Any]], Any],
    stay: bool = True,
) -> DataLoader[Any]:
    """A loader of an order's batches, whose workers leave signals to the training.

    Args:
        data: takes keys, as `Seeded`.
        order: of `hiera_det.engine.order`, or a list of batches of keys.
        workers: processes; 0 to read in this one; fewer where shared memory is short, or batches are.
        pin: copy batches into memory from which a GPU takes them sooner.
        collate: samples to a batch; what is `Refused` among them must come out of it.
        stay: keep the workers from one pass to the next, until `end_workers`.
    """
    if isinstance(order, list):
        workers = min(workers, len(order))  # each reads whole batches
    if workers:
        workers = workers_by_memory(workers, data, order)
        _end_workers_at_exit()
    sampler: Sampler[list[int]] | Any = order
    return _Loader(
        data,
        batch_sampler=sampler,
        num_workers=workers,
        persistent_workers=stay and workers > 0,
        pin_memory=pin,
        collate_fn=collate,
        worker_init_fn=_begin_worker,
        multiprocessing_context=FORK if workers else None,
        generator=torch.Generator(),  # of a number that nobody needs, which is else drawn from the training's
    )


def _begin_worker(number: int) -> None:
    """Leave signals to the training, and be silent where one of them makes it break off taking a batch over."""

    def say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, OSError | EOFError | multiprocessing.AuthenticationError):
            sys.__excepthook__(kind, error, trace)

    ignore_signals()
    sys.excepthook = say
    multiprocessing.queues.Queue._on_queue_feeder_error = _refuse_batch  # type: ignore[attr-defined]


def _refuse_batch(queue: Any, error: BaseException, item: Any) -> None:
    """Pass on why a batch cannot be; Python would drop it, and the training wait for ever."""
    queue.put((item[0], [Refused(f"{NO_SHARED_MEMORY} ({' '.join(str(error).split())})")]))


def end_workers(batches: Any) -> None:
    """Let the workers of a loader, or of a pass over one, go now; exceptions may hold on to it for long."""
    iterator = getattr(batches, "_iterator", batches)
    if hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()


@cache
def _end_workers_at_exit() -> None:
    """See to it that workers still there when this process ends, as after an error, do not keep it.

    multiprocessing would send them SIGTERM, to which they are deaf, and wait.
    """
    multiprocessing.util.Finalize(None, _kill_workers, exitpriority=100)


def _kill_workers() -> None:
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler would report them as lost
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def unwrap(batch: Any) -> Any:
    """What a loader gives, if all of it could be read.

    Raises:
        InputError: a file of the batch cannot be read.
    """
    for item in batch if isinstance(batch, list) else (batch,):
        if isinstance(item, Refused):
            raise InputError(item.message)
    return batch
