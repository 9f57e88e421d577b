"""Randomness that is a function of the seed and of where a training stands.

Nothing of a generator's state is carried from one iteration to the next, so that a training that is resumed draws what
an uninterrupted one would, whatever number of workers reads the images.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["derive", "generators_kept", "seed_all", "seeded"]


def derive(*parts: int) -> int:
    """A seed of 63 bits from numbers such as seed, epoch and index."""
    state = np.random.SeedSequence([part & 0xFFFFFFFF for part in parts]).generate_state(1, np.uint64)
    return int(state[0]) >> 1


def seed_all(seed: int) -> None:
    """Seed PyTorch on every device, NumPy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    random.seed(seed)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Put the generators of Python, NumPy and PyTorch, on all its devices, back to where they were."""
    python, numpy = random.getstate(), np.random.get_state()
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=gpus):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a seed inside, on the CPU; afterwards the generators are as they were."""
    with generators_kept():
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)
        random.seed(seed)
        yield
