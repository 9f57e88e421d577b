"""The one screen before the first step: what is trained, on what, how long, and where the files go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from hiera_det.engine.best import AUTO
from hiera_det.engine.settings import TrainSettings
from hiera_det.engine.talk import Length, told_memory, told_place
from hiera_det.errors import printable

__all__ = ["ADAMW", "Learning", "overview"]

ROWS = (
    "data",
    "classes",
    "model",
    "weights",
    "images",
    "schedule",
    "learning",
    "evaluation",
    "machine",
    "memory",
    "files",
)
BYTES = 4  # of a float32
ADAMW = "AdamW"


@dataclass(frozen=True)
class Learning:
    """How the weights move.

    Attributes:
        rate: the highest.
        warmup: steps over which it rises.
        clip: what gradients are clipped at; 0 for not at all.
        optimizer: its name.
        more: what else there is to say, such as when the rate falls.
    """

    rate: float
    warmup: int
    clip: float
    optimizer: str = ADAMW
    more: str = ""


def overview(
    told: Mapping[str, str],
    model: nn.Module,
    settings: TrainSettings,
    length: Length,
    learning: Learning,
    start: int = 0,
    period: int = 0,
) -> str:
    """The screen.

    Args:
        told: what the task knows: rows such as data, classes and model; one of ``evaluation`` or ``memory`` goes before
            what is said here, and so does "often" before how an evaluation comes more often.
        model: with its weights.
        settings: of the training.
        length: of it.
        learning: how.
        start: steps that are done already.
        period: steps from an evaluation to the next.
    """
    rows = {
        **told,
        "model": f"{told['model']}, {_parameters(model)}",
        "schedule": _schedule(settings, length, start),
        "learning": _learning(settings, learning),
        "evaluation": told.get("evaluation") or _evaluation(settings, length, period, told.get("often", "")),
        "machine": _machine(settings),
        "memory": _memory(settings, learning, model, told.get("memory", "")),
        "files": f"{settings.output}: {told.get('files', 'log.txt, metrics.json, run.json, weights (.pth)')}",
    }
    return "\n".join(f"{word:12}{printable(rows[word])}" for word in ROWS if word in rows)


def _parameters(model: nn.Module) -> str:
    learning = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in model.parameters())
    frozen = f", {(total - learning) / 1e6:.3g} million of them frozen" if learning < total else ""
    return f"{total / 1e6:.3g} million parameters{frozen}"


def _schedule(settings: TrainSettings, length: Length, start: int) -> str:
    epochs = f"{length.told_epochs} epoch{'s' * (length.told_epochs != '1')}, " if length.epoch else ""
    parts = f" in {settings.accumulate} parts" if settings.accumulate > 1 else ""
    going_on = f"; going on after {start}" if start else ""
    return f"{epochs}{length.iterations} iterations of {length.batch_size} images{parts}{going_on}"


def _learning(settings: TrainSettings, learning: Learning) -> str:
    words = [f"{learning.optimizer}, rate {learning.rate:.3g}", f"warm-up of {learning.warmup} iterations"]
    words += [learning.more] if learning.more else []
    words.append(f"gradients clipped at {learning.clip:g}" if learning.clip else "gradients not clipped")
    return "; ".join([*words, f"average of {settings.ema_decay:g}"] if settings.ema_decay else words)


def _evaluation(settings: TrainSettings, length: Length, period: int, often: str) -> str:
    best = {AUTO: "the usual metric", "": "none"}.get(settings.best, settings.best)
    kept = f"best weights by {best}" + (f", patience {settings.patience}" if settings.patience else "")
    if not 0 < period < length.iterations:
        return f"at the end only{f' ({often}: after each epoch)' if often and length.epochs > 1 else ''}; {kept}"
    every = told_place(period, length, of_total=False)
    unit, _, count = every.partition(" ")
    return f"{f'after each {unit}' if count == '1' else f'every {count} {unit}s'}; {kept}"


def _machine(settings: TrainSettings) -> str:
    name = torch.cuda.get_device_name() if settings.device == "cuda" else "CPU"
    processes = f"{settings.processes} processes, " if settings.processes > 1 else ""
    return f"{name}, {processes}{settings.precision}, {settings.workers} workers read images"


def _memory(settings: TrainSettings, learning: Learning, model: nn.Module, forecast: str) -> str:
    """What is known beforehand: weights, gradients, the optimizer's moments and the average."""
    copies = 2 + (2 if learning.optimizer == ADAMW else 1) + (1 if settings.ema_decay else 0)
    fixed = copies * BYTES * sum(parameter.numel() for parameter in model.parameters()) / 2**20
    return f"{told_memory(fixed)} for weights and optimizer; all of it, and the time, after 3 steps{forecast}"
