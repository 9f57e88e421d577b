"""The curves of a training: losses and learning rate on the left, AP or accuracy on the right."""

from __future__ import annotations

import errno
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hiera_det.engine.events import read_metrics
from hiera_det.files import write_atomically

__all__ = ["curves_of", "draw_curves"]

#: A number's places (iterations or epochs), ascending, and its values; what is not finite is NaN.
Series: TypeAlias = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]

#: The loss that the others are parts of: a detector's, and a classifier's or MAE's.
MAIN_LOSSES = ("total_loss", "loss")
#: The same on held-out images; of its parts, and of averaged weights, metrics.json knows more than a panel can show.
HELD_OUT_LOSS = "val_loss"
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
#: Points of a curve that are drawn.
MOST_POINTS = 500


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

    metrics, path = Path(folder) / "metrics.json", Path(folder) / "curves.png"
    panels = curves_of(metrics)
    if not panels:
        raise FileNotFoundError(errno.ENOENT, "no metrics to draw", str(metrics))
    figure = Figure(figsize=(6.5 * len(panels), 5.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for part, draw in zip(np.ravel(figure.subfigures(1, len(panels))), panels.values(), strict=True):
        draw(part)
    write_atomically(path, lambda file: figure.savefig(file, format="png"))
    return path


def curves_of(metrics: Path) -> dict[str, Callable[[Any], None]]:
    """What draws the losses, and the scores, of a ``metrics.json`` into a figure; nothing where there are no lines.

    A training without scores, as a masked autoencoder's, has losses alone.
    """
    lines = read_metrics(metrics)
    if not lines:
        return {}
    # A task of the engine counts in epochs, a detector in iterations.
    unit = "epoch" if any("loss" in line for line in lines) else "iteration"
    series = series_of(lines, unit)
    scores = find_scores(series)
    draw: dict[str, Callable[[Any], None]] = {
        "losses and learning rate": partial(_draw_losses, series=series, unit=unit)
    }
    if scores or unit == "iteration":
        draw["on held-out images"] = partial(_draw_scores, scores=scores, unit=unit)
    return draw


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


def running_median(values: npt.NDArray[np.float64], step: int = 1) -> npt.NDArray[np.float64]:
    """Median at every ``step``-th value, over a window that grows with their number; NaN stays where there is NaN."""
    half = min(len(values) // 40, 25)
    smooth = values[::step].copy()
    for place in np.flatnonzero(np.isfinite(smooth)).tolist():
        window = values[max(place * step - half, 0) : place * step + half + 1]
        smooth[place] = np.median(window[np.isfinite(window)])
    return smooth


def _panel(figure: Any, unit: str, title: str, ylabel: str) -> Any:
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots()
    axes.set(title=title, xlabel=unit, ylabel=ylabel)
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=unit == "iteration"))
    return axes


def _legend(figure: Any, axes: Any) -> None:
    """Below the axes, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", fontsize="small", ncols=2, frameon=False)


def _draw_losses(figure: Any, series: Mapping[str, Series], unit: str) -> None:
    """Each loss thin as it is and thick as its running median, that of held-out images by points, the rate behind."""
    axes = _panel(figure, unit, "losses (median) and learning rate", "loss")
    losses = sorted(key for key in series if "loss" in key and np.isfinite(series[key][1]).any())
    names = [name for name in losses if HELD_OUT_LOSS not in name]
    names.sort(key=lambda name: name not in MAIN_LOSSES)
    colors = [f"C{index}" for index in range(10) if index != 7]  # C7, grey, is the learning rate's
    for index, name in enumerate(names):
        places, values = series[name]
        main = name in MAIN_LOSSES
        color, width = (axes.xaxis.label.get_color(), 2.5) if main else (colors[index % len(colors)], 1.3)
        marker = "o" if len(values) == 1 else None
        step = _step(places)
        axes.plot(places[::step], values[::step], color=color, linewidth=0.8, alpha=0.25)
        smooth = running_median(values, step)
        axes.plot(places[::step], smooth, color=color, linewidth=width, marker=marker, label=name)
    if HELD_OUT_LOSS in losses:
        names.append(HELD_OUT_LOSS)
        axes.plot(*series[HELD_OUT_LOSS], color="C3", linewidth=2, linestyle="--", marker="o", label=HELD_OUT_LOSS)
    if names:
        axes.set_ylim(bottom=min(0.0, *(np.nanmin(series[name][1]) for name in names)))
    else:
        _write_in_middle(axes, "no losses yet")
    if "lr" in series:
        _draw_learning_rate(axes, series["lr"])
    _legend(figure, axes)


def _step(places: npt.NDArray[np.float64]) -> int:
    """From one point to the next, so that there are as many as a panel has room for."""
    return -(-len(places) // MOST_POINTS)


def _draw_learning_rate(axes: Any, rate: Series) -> None:
    """On an axis of its own at the right, below the losses."""
    twin = axes.twinx()
    places, values = rate
    twin.plot(places[:: _step(places)], values[:: _step(places)], color="C7", linestyle=":", linewidth=1.2)
    twin.set_ylabel("learning rate (dotted)", color="C7")
    twin.tick_params(axis="y", labelcolor="C7")
    twin.set_ylim(bottom=0)
    twin.ticklabel_format(axis="y", scilimits=(-2, 3))
    axes.set_zorder(twin.get_zorder() + 1)
    axes.patch.set_visible(False)


def _draw_scores(figure: Any, scores: Sequence[tuple[str, str, str, Series]], unit: str) -> None:
    """AP in percent, or accuracy, with a star at the best of each; the axis fits what there is."""
    is_ap = not scores or "AP" in scores[0][0]
    axes = _panel(figure, unit, "on held-out images", "AP (%)" if is_ap else "accuracy")
    if not scores:
        _write_in_middle(axes, "no evaluation yet")
        return
    for label, color, style, (places, values) in scores:
        best, digits = int(values.argmax()), 1 if is_ap else 3
        text = f"{label}, last {values[-1]:.{digits}f}, best {values[best]:.{digits}f} at {places[best]:g}"
        axes.plot(places, values, color=color, linestyle=style, marker="o", markersize=4, label=text)
        axes.plot(places[best], values[best], color=color, marker="*", markersize=13)
    low, high = (bound([bound(values) for *_, (_, values) in scores]) for bound in (min, max))
    margin = max(0.08 * (high - low), 0.5 * ((LEAST_AP_SPAN if is_ap else LEAST_AP_SPAN / 100) - (high - low)))
    axes.set_xlim(left=0)
    axes.set_ylim(max(low - margin, -0.02 * (high + margin)), high + margin)
    _legend(figure, axes)


def _write_in_middle(axes: Any, text: str) -> None:
    """Words in the middle of an empty panel."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=14, color="gray")
