"""When a checkpoint is due besides those of the period: by the clock, and where an epoch ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hiera_det.engine.processes import any_process, is_main_process, process_count

__all__ = ["Pace"]

#: Most of the time that checkpoints at the ends of short epochs may take.
SHARE = 0.05
#: Steps from one question to the next where several processes must agree.
EVERY = 20


class Pace:
    """Sees to it that no more work is lost than some minutes' or an epoch's.

    Args:
        minutes: most that pass without a checkpoint; 0 leaves it to the period. An epoch that ends is a reason too,
            unless checkpoints would then take more than a twentieth of the time.
    """

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self._since, self._cost = time.monotonic(), 0.0

    def begin(self) -> None:
        """Count from here."""
        self._since = time.monotonic()

    def due(self, steps: int, epoch_ends: bool, device: torch.device) -> bool:
        """Whether to save after so many steps; all processes must ask, and are told the same.

        Args:
            steps: done.
            epoch_ends: with the last of them.
            device: of the model.
        """
        if not self.minutes or (process_count() > 1 and not epoch_ends and steps % EVERY):
            return False
        passed = time.monotonic() - self._since
        due = passed >= 60 * self.minutes or (epoch_ends and passed * SHARE >= self._cost)
        return any_process(due and is_main_process(), device)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """A context in which a checkpoint is written, from which on time is counted anew."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._since = time.monotonic()
            self._cost = self._since - start
