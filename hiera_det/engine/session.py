"""What surrounds a run in each of its processes: its folder, the lock on it, the log in it, and an ear for signals.

A run may be one of several in a process that is not ours, such as a notebook's, which finds it as it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch

from hiera_det.engine.checkpoint import Checkpoints, FolderLock
from hiera_det.engine.log import logged_to, loggers_kept, outlasting, warnings_logged
from hiera_det.engine.processes import is_main_process
from hiera_det.engine.randomness import generators_kept
from hiera_det.engine.stop import Stop, StopRequested
from hiera_det.files import make_folder

__all__ = ["process_kept", "run_in"]

logger = logging.getLogger("hiera_det.training")


@contextmanager
def process_kept(*loggers: str) -> Iterator[None]:
    """Leave a process as it was found: its random numbers, its loggers of these names, and how cuDNN chooses."""
    benchmark = torch.backends.cudnn.benchmark
    try:
        with loggers_kept(*loggers), generators_kept(), outlasting(), warnings_logged():
            yield
    finally:
        torch.backends.cudnn.benchmark = benchmark


def run_in(folder: str, run: Callable[[Stop], int], word: str = "--output") -> int:
    """Run a training in its folder.

    Args:
        folder: the run's output, made where there is none.
        run: listens to a `Stop` that is entered; returns 0, or the number of the signal that stopped it.
        word: the flag or key that named the folder.

    Returns:
        what ``run`` does; the number of a signal that came in its set-up.

    Raises:
        InputError: the folder cannot be written, or another training runs there.
    """
    with process_kept(), Stop() as stop:
        try:
            make_folder(folder, word)
            with FolderLock(folder, word) if is_main_process() else nullcontext(), logged_to(folder):
                return _run_logged(folder, run, stop)
        except StopRequested as request:
            return request.number


def _run_logged(folder: str, run: Callable[[Stop], int], stop: Stop) -> int:
    """Run where the log is; once the loop runs, it takes signals itself and returns their number."""
    if is_main_process():
        Checkpoints(folder).sweep()
    try:
        return run(stop)
    except StopRequested as request:
        logger.warning("%s before the first step", request)
        raise
