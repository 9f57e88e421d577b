"""Stopping safely: a signal is noted, and acted on where nothing is lost.

SLURM and torchrun send SIGTERM before they kill, people press Ctrl-C (SIGINT), and a job that wants to be put back into
the queue is told so by SIGUSR1. Loader workers are sent the same signals where the whole group of processes is; they
ignore them, for the training still needs their images (`ignore_signals`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from hiera_det.engine.processes import process_count
from hiera_det.errors import exit_status, leave

__all__ = [
    "SIGNALS",
    "Stop",
    "StopRequested",
    "as_guest",
    "heard",
    "held_back",
    "ignore_signals",
    "stoppable",
]

logger = logging.getLogger("hiera_det.training")

#: SIGHUP is sent where a terminal is closed. Windows has neither it nor SIGUSR1.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP") if hasattr(signal, name))
HANGUP = getattr(signal, "SIGHUP", None)
#: Seconds in which signals are one request: a scheduler's reaches a process directly and through its parent.
ONE_REQUEST = 0.5


class StopRequested(KeyboardInterrupt):
    """A training was stopped by a signal; where steps were done, after a checkpoint.

    No `Exception`, so that no broad handler on the way takes it for a failure; and for a caller in Python what Ctrl-C
    is anyway.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number

    @property
    def status(self) -> int:
        """The exit status of a process that it ends; see `exit_status`."""
        return exit_status(self.number)


def heard() -> tuple[signal.Signals, ...]:
    """The signals, but for a hang-up that nohup has this process ignore."""
    return tuple(number for number in SIGNALS if number != HANGUP or signal.getsignal(number) is not signal.SIG_IGN)


def ignore_signals(worker: int = 0) -> None:
    """Make a process, such as a loader worker, deaf to what a training is stopped by."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # with which `held_back` has it begin
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Let signals act only at the end, where processes are started, who begin with them blocked.

    What a handler raises in a fork's own callbacks is lost, and a lock that they were about to give back stays taken.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    can_block, came = hasattr(signal, "pthread_sigmask"), list[int]()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS) if can_block else set()
    # Blocked here, a signal may still come by way of another thread.
    before = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not Python's
        if can_block:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if came:
        signal.raise_signal(came[0])


class Stop:
    """Listens to the signals while it is entered; handlers that were there before are called too.

    A signal raises `StopRequested` at once, as in the set-up, but where something is to be finished first (`shielded`):
    there it is noted, the loop asks `agreed` after each step, and waits are open to it again (`interruptible`). A
    second signal ends the process at once; one that is a caller's (`as_guest`) it leaves by a plain
    `KeyboardInterrupt`, without a checkpoint.

    Attributes:
        requested: the number of the signal that this process was sent; 0 for none.
    """

    owns_process = True

    def __init__(self) -> None:
        self.requested = 0
        self._since = 0.0
        self._entered = 0
        self._raises = True
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        """Listen, where this is the main thread; Python delivers signals nowhere else."""
        self._entered += 1
        if self._entered == 1 and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in heard()}
        return self

    def __exit__(self, *error: object) -> None:
        self._entered -= 1
        if not self._entered:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._before = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        # A terminal's hang-up comes once more from its shell, and from systemd after SIGTERM.
        if self.requested and now - self._since > ONE_REQUEST and number != HANGUP:
            if not Stop.owns_process:
                raise KeyboardInterrupt("at once, without a checkpoint")
            os._exit(exit_status(number))  # asked twice: at once; files are written beside their place
        if self.requested:
            return
        self.requested, self._since = number, now
        before = self._before.get(number)
        if callable(before) and before not in (signal.default_int_handler, leave):
            before(number, frame)
        if self._raises:
            raise StopRequested(number)

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """A context in which signals are noted only."""
        with self._raising(False):
            yield

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """A context inside `shielded` that a signal ends with `StopRequested`, also one that came before.

        With several processes only `settle` and `agreed` end a wait: one that left alone would keep the others waiting.
        """
        if process_count() > 1:
            yield
            return
        with self.open():
            yield

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """The same with several processes too: for what one does alone, after which all of them `settle`."""
        with self._raising(True):
            self.poll()
            yield

    @contextlib.contextmanager
    def _raising(self, raises: bool) -> Iterator[None]:
        before, self._raises = self._raises, raises
        try:
            yield
        finally:
            self._raises = before

    def poll(self) -> None:
        """Raise `StopRequested` where this process was sent a signal."""
        if self.requested:
            raise StopRequested(self.requested)

    def cut(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches of an evaluation, until a signal; `settle` must follow, in all processes."""
        waiting, end = iter(batches), object()
        while not self.requested:
            with self.interruptible():
                batch = next(waiting, end)
            if batch is end:
                return
            yield batch

    def settle(self, device: torch.device) -> None:
        """Raise `StopRequested` in all processes where one of them was sent a signal."""
        number = self.agreed(device)
        if number:
            raise StopRequested(number)

    def agreed(self, device: torch.device) -> int:
        """The signal that some process was sent, the same answer in all, who must all ask; 0 for none."""
        if process_count() == 1:
            return self.requested
        sent = torch.tensor([self.requested], device=device)
        dist.all_reduce(sent, op=dist.ReduceOp.MAX)
        return int(sent)


@contextlib.contextmanager
def as_guest() -> Iterator[None]:
    """A context in a process that is not ours to end, such as a notebook's kernel."""
    before, Stop.owns_process = Stop.owns_process, False
    try:
        yield
    finally:
        Stop.owns_process = before


@contextlib.contextmanager
def stoppable() -> Iterator[Stop]:
    """Listen over a whole run, its set-up included; that it was stopped is said in the log."""
    with Stop() as stop:
        try:
            yield stop
        except StopRequested as request:
            logger.warning("%s", request)
            raise
