"""The curves of a training: losses and learning rate on the left, accuracy on the right."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hiera_det.engine.events import read_metrics
from hiera_det.files import write_atomically

__all__ = ["draw_curves"]

LOSSES = {"loss": "training loss", "val_loss": "validation loss"}
ACCURACIES = {"top1": "top-1", "top5": "top-5"}


def draw_curves(folder: str) -> str:
    """Draw ``metrics.json`` of a folder into its ``curves.png``, in one step.

    Returns:
        the picture's path.

    Raises:
        OSError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = read_metrics(os.path.join(folder, "metrics.json"))
    accuracies = [name for name in ACCURACIES if any(name in line for line in lines)]
    figure = Figure(figsize=(12 if accuracies else 6.5, 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(1, 2 if accuracies else 1, squeeze=False)[0]
    _draw(axes[0], lines, LOSSES, "loss")
    rate = axes[0].twinx()
    rate.plot(*_series(lines, "lr"), color="0.7", linewidth=1)
    rate.set_ylabel("learning rate (grey)")
    if accuracies:
        _draw(axes[1], lines, ACCURACIES, "accuracy")
    path = Path(folder) / "curves.png"
    write_atomically(path, lambda file: figure.savefig(file, format="png"))
    return str(path)


def _draw(axes: Any, lines: Sequence[dict[str, Any]], names: dict[str, str], label: str) -> None:
    """The series of some names that are there."""
    for name, title in names.items():
        epochs, values = _series(lines, name)
        if values:
            axes.plot(epochs, values, label=title, marker="." if len(values) < 50 else None)
    axes.set(xlabel="epoch", ylabel=label)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()


def _series(lines: Sequence[dict[str, Any]], name: str) -> tuple[list[float], list[float]]:
    """Epochs and values of one name."""
    found = [(line["epoch"], line[name]) for line in lines if name in line]
    return [epoch for epoch, _ in found], [value for _, value in found]
