"""The losses of a training, measured on the images that it is evaluated on: the same heads and targets, no gradients.

Images are resized as for tests. The trunk is in evaluation mode, without stochastic depth; what the heads draw, which
boxes they learn from, is drawn the same way every time.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.modeling import Backbone
from detectron2.utils.events import EventStorage
from torch import nn

from hiera_det.engine.processes import process_rank, sum_over_processes
from hiera_det.engine.randomness import derive, generators_kept, seed_all
from hiera_det.engine.sharding import unwrap
from hiera_det.engine.stop import Stop

__all__ = ["TOTAL", "has_targets", "measure_losses"]

logger = logging.getLogger("hiera_det.trainer")

#: The sum of all losses; each is ``val_`` and its name in the training.
TOTAL, PREFIX = "val_loss", "val_"
#: Modules that measure as in evaluation: no noise, and no statistics of these images.
STILL = (Backbone, nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


def has_targets(sample: Mapping[str, Any]) -> bool:
    """Whether a sample has what a loss is measured against."""
    return "instances" in sample or "sem_seg" in sample


def measure_losses(model: nn.Module, loader: Iterable[list[dict[str, Any]]], stop: Stop) -> dict[str, float]:
    """The mean of each loss over the images of all processes, and of their sum; nothing where no image has targets.

    Args:
        model: gives a dict of losses in training mode; in a `whole` context where it is shared out.
        loader: this process's batches of samples with targets.
        stop: what ends it early.

    Returns:
        ``val_loss``, and the parts as ``val_loss_cls`` and the like.

    Raises:
        StopRequested: a signal came, to whichever process.
    """
    model = unwrap(model)
    device = next(model.parameters()).device
    sums: dict[str, float] = defaultdict(float)
    with _measuring(model):
        for number, batch in enumerate(stop.cut(loader)):
            samples = [sample for sample in batch if has_targets(sample)]
            if not samples:
                continue
            seed_all(derive(number, process_rank()))
            sums["images"] += len(samples)
            for name, loss in model(samples).items():
                sums[name] += float(loss) * len(samples)
    stop.settle(device)
    return _means(sums, device)


def _means(sums: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Of all processes, one of which may have no image and know no loss."""
    names = sorted(_everybodys(set(sums)))
    totals = torch.tensor([sums.get(name, 0.0) for name in names], dtype=torch.float64, device=device)
    means = dict(zip(names, sum_over_processes(totals).tolist(), strict=True))
    images = means.pop("images", 0.0)
    if not images:
        return {}
    parts = {PREFIX + name: value / images for name, value in means.items()}
    return {TOTAL: sum(parts.values())} | parts


def _everybodys(names: set[str]) -> set[str]:
    from detectron2.utils import comm

    return set().union(*comm.all_gather(names))


@contextmanager
def _measuring(model: nn.Module) -> Iterator[None]:
    """Losses and no gradients; modes, generators and the events of the training are as before afterwards."""
    before = [(module, module.training) for module in model.modules()]
    model.train()
    for module in model.modules():
        if isinstance(module, STILL):
            module.eval()
    try:
        with generators_kept(), torch.no_grad(), EventStorage(1):  # not 0, at which pictures would be drawn
            yield
    finally:
        for module, training in before:
            module.training = training
