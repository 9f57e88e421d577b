"""A detector's losses on the images that it is evaluated on, resized as for tests (`hiera_det.engine.val_loss`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from detectron2.modeling import Backbone
from detectron2.utils.events import EventStorage
from torch import nn

from hiera_det.engine import val_loss
from hiera_det.engine.sharding import unwrap
from hiera_det.engine.stop import Stop

__all__ = ["has_targets", "measure_losses"]


def has_targets(sample: Mapping[str, Any]) -> bool:
    """Whether a sample has what a loss is measured against."""
    return "instances" in sample or "sem_seg" in sample


def measure_losses(model: nn.Module, loader: Iterable[list[dict[str, Any]]], stop: Stop) -> dict[str, float]:
    """See `hiera_det.engine.val_loss.measure_losses`; of samples without targets nothing is measured."""
    model = unwrap(model)

    def losses(batch: list[dict[str, Any]]) -> tuple[int, Mapping[str, Any]]:
        samples = [sample for sample in batch if has_targets(sample)]
        return len(samples), model(samples) if samples else {}

    with EventStorage(1):  # not 0, at which pictures would be drawn
        return val_loss.measure_losses(model, loader, losses, Backbone, stop)
