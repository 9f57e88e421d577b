"""The losses of a training, measured on the images that it is evaluated on: the same targets, no gradients.

Modules that would be noisy are in evaluation mode, without stochastic depth; what else draws, as which boxes heads
learn from, draws the same way every time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from hiera_det.engine.processes import gathered, process_rank, sum_over_processes
from hiera_det.engine.randomness import derive, generators_kept, seed_all
from hiera_det.engine.stop import Stop

__all__ = ["TOTAL", "measure_losses"]

#: The sum of all losses; each is ``val_`` and its name in the training.
TOTAL, PREFIX = "val_loss", "val_"
#: Modules that measure as in evaluation: no noise, and no statistics of these images.
STILL = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


def measure_losses(
    model: nn.Module,
    loader: Iterable[Any],
    losses: Callable[[Any], tuple[int, Mapping[str, Any]]],
    still: type[nn.Module],
    stop: Stop,
) -> dict[str, float]:
    """The mean of each loss over the images of all processes, and of their sum; nothing where no image has targets.

    Args:
        model: gives losses in training mode; in a `whole` context where it is shared out.
        loader: this process's batches.
        losses: a batch to the images in it that have targets, and their mean losses.
        still: of the trunk, which has stochastic depth.
        stop: what ends it early.

    Returns:
        ``val_loss``, and the parts as ``val_loss_cls`` and the like.

    Raises:
        StopRequested: a signal came, to whichever process.
    """
    device = next(model.parameters()).device
    sums: dict[str, float] = defaultdict(float)
    with _measuring(model, (*STILL, still)):
        for number, batch in enumerate(stop.cut(loader)):
            seed_all(derive(number, process_rank()))
            images, found = losses(batch)
            sums["images"] += images
            for name, loss in found.items():
                sums[name] += float(loss) * images
    stop.settle(device)
    return _means(sums, device)


def _means(sums: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Of all processes, one of which may have no image and know no loss."""
    names = sorted(set().union(*gathered(set(sums))))
    totals = torch.tensor([sums.get(name, 0.0) for name in names], dtype=torch.float64, device=device)
    means = dict(zip(names, sum_over_processes(totals).tolist(), strict=True))
    images = means.pop("images", 0.0)
    if not images:
        return {}
    parts = {PREFIX + name: value / images for name, value in means.items()}
    return {TOTAL: sum(parts.values())} | parts


@contextmanager
def _measuring(model: nn.Module, still: tuple[type[nn.Module], ...]) -> Iterator[None]:
    """Losses and no gradients; modes and generators are as before afterwards."""
    before = [(module, module.training) for module in model.modules()]
    model.train()
    for module in model.modules():
        if isinstance(module, still):
            module.eval()
    try:
        with generators_kept(), torch.no_grad():
            yield
    finally:
        for module, training in before:
            module.training = training
