"""What this machine has to give to the processes that read images: cores, and shared memory to pass batches through."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from hiera_det.engine.processes import local_process_count
from hiera_det.errors import InputError

__all__ = ["DEFAULT_WORKERS", "available_cores", "workers_by_cores", "workers_by_memory"]

logger = logging.getLogger("hiera_det.training")

#: Where nobody names a number and there are as many cores.
DEFAULT_WORKERS = 4
#: For each core, and on any machine, of those that are given by hand: more only wait for each other.
MOST_PER_CORE, MOST_ANYWHERE = 8, 16
SHARED = "/dev/shm"
CGROUPS = Path("/sys/fs/cgroup")
#: Batches that wait for each worker (PyTorch's prefetching), and one that is being trained on.
WAITING = 2
#: Free bytes per batch from which no sample is looked at: more than a batch of any training here takes.
PLENTY = 2**28


def available_cores() -> int:
    """Cores that this process may use: by affinity, as taskset and SLURM set it, and by its control group's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *_quotas()]))


def _quotas() -> Iterator[int]:
    """Of this process's control group, as Docker and Kubernetes set it, and of those above it."""
    try:
        own = Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2].lstrip("/")
    except OSError:
        return
    for folder in (CGROUPS / own, *(CGROUPS / own).parents):
        if folder.is_relative_to(CGROUPS) and (folder / "cpu.max").is_file():
            quota, _, period = (folder / "cpu.max").read_text().partition(" ")
            if quota != "max":
                yield int(quota) // int(period)


def workers_by_cores(given: int | None, word: str, default: int = DEFAULT_WORKERS) -> int:
    """How many processes read images for each one that trains.

    Args:
        given: by hand, which stands up to eight per core: files of a network may be waited for by more than there are
            cores.
        word: the flag or key that says so.
        default: as many where there are the cores, if none is given.

    Raises:
        InputError: a number below 0.
    """
    cores, processes = available_cores(), local_process_count()
    most = max(1, cores // processes)
    workers = default if given is None else given
    if workers < 0:
        raise InputError(f"{word} {workers}: give 0, to read images in the process that trains, or more")
    if workers <= most:
        return workers
    shared = f"{cores} cores for {processes} processes" if processes > 1 else f"{cores} cores"
    if given is not None and given > (limit := max(MOST_PER_CORE * most, MOST_ANYWHERE)):
        logger.warning("%s %d: far more than there are cores (%s): %d read images", word, given, shared, limit)
        return limit
    if given is not None:
        logger.warning("%s %d: more than there are cores (%s); it stands, as it is given", word, workers, shared)
        return workers
    logger.info("%s is set to %d: this machine gives %s; a number on the command line stands", word, most, shared)
    return most


def workers_by_memory(workers: int, data: Dataset[Any], order: Iterable[Sequence[Any]], folder: str = SHARED) -> int:
    """How many of these workers can pass their batches on through shared memory; 0 where not even one can.

    Docker gives a container 64 MiB of it, and a worker that finds none dies of a bus error.

    Args:
        workers: as many as are asked for.
        data: a sample is read where there is little.
        order: batches of keys.
        folder: where shared memory is.
    """
    try:
        room = os.statvfs(folder)
    except (OSError, AttributeError):  # no such thing on this system
        return workers
    free = room.f_bavail * room.f_frsize // local_process_count()
    if free >= PLENTY * (WAITING * workers + 1):
        return workers
    batch = next(iter(order), ())
    if not batch:
        return workers
    size = len(pickle.dumps(data[batch[0]])) * len(batch)
    fit = max(0, (free // max(1, size) - 1) // WAITING)
    if fit < workers:
        logger.warning(
            "%s has %.0f MiB free, and %d workers with batches of some %.1f MiB need more: %d read images; give more "
            "shared memory (docker run --shm-size 8g)",
            *(folder, free / 2**20, workers, size / 2**20, fit),
        )
    return min(workers, fit)
