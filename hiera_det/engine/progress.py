"""How fast a training goes, how much memory it holds and when it will be through."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch

from hiera_det.engine.processes import is_main_process

__all__ = ["Rate", "eta", "evaluating", "peak_memory"]


def peak_memory() -> float:
    """Most memory held so far, in MiB: PyTorch's on this process's GPU, else the process's own; 0 where unknown."""
    if torch.cuda.is_available() and (peak := torch.cuda.max_memory_allocated()):
        return peak / 2**20
    if os.name != "posix":
        return 0.0
    import resource

    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes, Linux KiB


class Rate:
    """Images per second since the last time it was asked."""

    def __init__(self) -> None:
        self.images, self.since = 0, time.perf_counter()

    def add(self, images: int) -> None:
        """Count the images of a step."""
        self.images += images

    def take(self) -> float:
        """The rate, and start anew."""
        now = time.perf_counter()
        rate = self.images / max(now - self.since, 1e-9)
        self.images, self.since = 0, now
        return rate


def eta(images: int, rate: float) -> timedelta:
    """How long so many images will take."""
    return timedelta(seconds=round(images / rate)) if rate else timedelta.max


def evaluating(batches: Iterable[Any]) -> Any:
    """The batches of an evaluation, with a bar in the first process where stderr is a terminal."""
    from tqdm import tqdm

    # None: as the stream is
    disable = None if is_main_process() else True
    return tqdm(batches, unit="batch", desc="evaluating", disable=disable, leave=False)
