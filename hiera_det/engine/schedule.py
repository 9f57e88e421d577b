"""The learning rate over a training: up linearly, down by half a cosine (as in He et al. 2022)."""

from __future__ import annotations

import math

__all__ = ["lr_at"]


def lr_at(iteration: int, iterations: int, warmup: float, peak: float) -> float:
    """The learning rate of an iteration.

    Args:
        iteration: counted from 0.
        iterations: how many there are.
        warmup: iterations over which it rises from 0; ``peak`` is reached at its end.
        peak: the highest rate.

    Returns:
        the rate, which would be 0 just after the last iteration.
    """
    if iteration < warmup:
        return peak * (iteration + 1) / (warmup + 1)  # not 0, so that the first iteration is of use
    done = (iteration - warmup) / max(1.0, iterations - warmup)
    return peak * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
