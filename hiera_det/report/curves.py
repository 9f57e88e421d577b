"""The curves of a training: losses and learning rate on the left, AP or accuracy on the right."""

from __future__ import annotations

import errno
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hiera_det.engine.events import read_metrics
from hiera_det.files import write_atomically

__all__ = ["draw_curves"]

#: A number's places (iterations or epochs), ascending, and its values; what is not finite is NaN.
Series: TypeAlias = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]

#: The loss that the others are parts of: a detector's, and a classifier's or MAE's.
MAIN_LOSSES = ("total_loss", "loss")
#: What the right panel shows: key in metrics.json, label, colour, line.
SCORES = (
    ("bbox/AP", "box AP", "tab:blue", "-"),
    ("bbox/AP50", "box AP50", "tab:cyan", "-"),
    ("segm/AP", "mask AP", "tab:red", "--"),
    ("segm/AP50", "mask AP50", "tab:orange", "--"),
    ("top1", "top-1", "tab:blue", "-"),
    ("top5", "top-5", "tab:cyan", "-"),
)
#: Least span of the axis of AP, in percent: the steps of a first epoch are no mountains.
LEAST_AP_SPAN = 5.0


def draw_curves(folder: str | Path) -> Path:
    """Draw the ``metrics.json`` of a folder into its ``curves.png``, in one step.

    Where an iteration comes again, as after a resume, the later value counts; a value that is not finite leaves a gap.

    Returns:
        the picture's path.

    Raises:
        OSError: there are no metrics, or the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    metrics, path = Path(folder) / "metrics.json", Path(folder) / "curves.png"
    lines = read_metrics(metrics)
    if not lines:
        raise FileNotFoundError(errno.ENOENT, "no metrics to draw", str(metrics))
    # A task of the engine counts in epochs, a detector in iterations.
    unit = "epoch" if any("loss" in line for line in lines) else "iteration"
    series = series_of(lines, unit)
    scores = find_scores(series)
    panels = 1 if unit == "epoch" and not scores else 2
    figure = Figure(figsize=(6.5 * panels, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(1, panels, squeeze=False)[0]
    for panel in axes:
        panel.set_xlabel(unit)
        panel.grid(alpha=0.3)
        panel.xaxis.set_major_locator(MaxNLocator(integer=unit == "iteration"))
    _draw_losses(axes[0], series)
    if panels == 2:
        _draw_scores(axes[1], scores)
        axes[1].set_xlim(axes[0].get_xlim() if axes[0].lines else None)
    write_atomically(path, lambda file: figure.savefig(file, format="png"))
    return path


def series_of(lines: Sequence[Mapping[str, Any]], unit: str) -> dict[str, Series]:
    """Every number of the lines over the iterations or epochs."""
    values: dict[str, dict[float, float]] = defaultdict(dict)
    for line in lines:
        for name, value in line.items():
            value = math.nan if value is None else value  # as a file of ours has it
            if isinstance(value, int | float) and isinstance(line.get(unit), int | float):
                values[name][line[unit]] = value if math.isfinite(value) else math.nan
    columns = ((name, np.array(sorted(points.items()), dtype=np.float64)) for name, points in values.items())
    return {name: (points[:, 0], points[:, 1]) for name, points in columns}


def find_scores(series: Mapping[str, Series]) -> list[tuple[str, str, str, Series]]:
    """Label, colour, line and values of each score that there is."""
    found = []
    for suffix, label, color, style in SCORES:
        # With several data sets detectron2 puts the data set's name in front: "name/bbox/AP".
        for key in sorted(name for name in series if name == suffix or name.endswith(f"/{suffix}")):
            finite = np.isfinite(series[key][1])
            if finite.any():
                prefix = key.removesuffix(suffix).replace("/", " ")
                places, values = series[key]
                found.append((f"{prefix}{label}", color, style, (places[finite], values[finite])))
    return found


def running_median(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Median over a window that grows with the number of values; NaN stays where there is nothing else."""
    half = min(len(values) // 40, 25)
    smooth = values.copy()
    for index in np.flatnonzero(np.isfinite(values)):
        window = values[max(index - half, 0) : index + half + 1]
        smooth[index] = np.median(window[np.isfinite(window)])
    return smooth


def _draw_losses(axes: Any, series: Mapping[str, Series]) -> None:
    """Each loss thin as it is and thick as its running median, and the learning rate behind them."""
    axes.set(title="losses (median) and learning rate", ylabel="loss")
    names = sorted(key for key in series if "loss" in key and np.isfinite(series[key][1]).any())
    names.sort(key=lambda name: name not in MAIN_LOSSES)
    colors = [f"C{index}" for index in range(10) if index != 7]  # C7, grey, is the learning rate's
    for index, name in enumerate(names):
        places, values = series[name]
        color, width = ("black", 2.5) if name in MAIN_LOSSES else (colors[index % len(colors)], 1.3)
        marker = "o" if len(values) == 1 else None
        axes.plot(places, values, color=color, linewidth=0.8, alpha=0.25)
        axes.plot(places, running_median(values), color=color, linewidth=width, marker=marker, label=name)
    if names:
        axes.set_ylim(bottom=min(0.0, *(np.nanmin(series[name][1]) for name in names)))
        axes.legend(fontsize="small", loc="best")
    else:
        _write_in_middle(axes, "no losses yet")
    if "lr" in series:
        _draw_learning_rate(axes, series["lr"])


def _draw_learning_rate(axes: Any, rate: Series) -> None:
    """On an axis of its own at the right, below the losses and their legend."""
    twin = axes.twinx()
    twin.plot(*rate, color="C7", linestyle=":", linewidth=1.2)
    twin.set_ylabel("learning rate (dotted)", color="C7")
    twin.tick_params(axis="y", labelcolor="C7")
    twin.set_ylim(bottom=0)
    twin.ticklabel_format(axis="y", scilimits=(-2, 3))
    axes.set_zorder(twin.get_zorder() + 1)
    axes.patch.set_visible(False)


def _draw_scores(axes: Any, scores: Sequence[tuple[str, str, str, Series]]) -> None:
    """AP in percent, or accuracy, from zero to a little over the best."""
    is_ap = not scores or "AP" in scores[0][0]
    axes.set(title="on held-out images", ylabel="AP (%)" if is_ap else "accuracy", ylim=(0, 102 if is_ap else 1.02))
    if not scores:
        _write_in_middle(axes, "no evaluation yet")
        return
    for label, color, style, (places, values) in scores:
        text = f"{label}, last {values[-1]:.{1 if is_ap else 3}f}"
        axes.plot(places, values, color=color, linestyle=style, marker="o", markersize=5, label=text)
    best = max(values.max() for *_, (_, values) in scores)
    if is_ap:
        axes.set_ylim(top=min(102.0, max(LEAST_AP_SPAN, 1.15 * best)))
    axes.legend(fontsize="small", loc="best")


def _write_in_middle(axes: Any, text: str) -> None:
    """Words in the middle of an empty panel."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=14, color="gray")
