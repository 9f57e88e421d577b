"""A comparison's table in Markdown, and its curves: means over the seeds, and the span between their extremes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hiera_det.files import write_atomically

__all__ = ["draw_comparison", "format_comparison", "told_run"]

SCORES = {"bbox/AP": "box AP", "bbox/AP50": "box AP50", "segm/AP": "mask AP", "segm/AP50": "mask AP50"}
AVERAGED = "ema/"


def told_run(run: Mapping[str, Any]) -> str:
    """A run in a line."""
    if "failed" in run:
        return f"failed: {run['failed']}"
    if not run["points"]:
        return "nothing was measured"
    last = run["points"][-1]
    found = [f"{SCORES[name]} {last[name]:.1f}" for name in ("bbox/AP", "segm/AP") if name in last]
    return f"{run['steps']} steps, {last['seconds']:.0f} s, {', '.join(found)}"


def format_comparison(content: Mapping[str, Any]) -> str:
    """A row for each variant, and one for its averaged weights: means over the seeds, least and greatest behind them.

    Args:
        content: of a comparison's ``results.json``.
    """
    names = [name for name in SCORES if any(name in last for one in _finished(content) for last in _last_points(one))]
    head = ["variant", "seeds", "steps", "seconds", *(SCORES[name] for name in names)]
    rows = [head, ["---"] * len(head)]
    for name, one in content["variants"].items():
        points = _last_points(one)
        failed = sum("failed" in run for run in one["runs"].values())
        seeds = f"{len(points)}" + (f", {failed} failed" if failed else "")
        start = [seeds, str(one["steps"]), f"{np.mean([p['seconds'] for p in points]):.0f}" if points else ""]
        for prefix, word in (("", ""), (AVERAGED, ", averaged")):
            if not prefix or any(prefix + score in point for point in points for score in names):
                rows.append([name + word, *start, *(_spread(points, prefix + score) for score in names)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _finished(content: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (one for one in content["variants"].values() if _last_points(one))


def _last_points(one: Mapping[str, Any]) -> list[Mapping[str, float]]:
    """The last evaluation of each of a variant's runs."""
    return [run["points"][-1] for run in one["runs"].values() if run["points"]]


def _spread(points: Sequence[Mapping[str, float]], score: str) -> str:
    values = [point[score] for point in points if score in point]
    if not values:
        return ""
    mean = f"{np.mean(values):.1f}"
    return f"{mean} ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else mean


def draw_comparison(content: Mapping[str, Any], path: Path) -> None:
    """Draw box and mask AP over the seconds of training.

    Args:
        content: as of `format_comparison`.
        path: of the PNG.

    Raises:
        WriteError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [name for name in ("bbox/AP", "segm/AP") if any(_curves(one, name) for one in _finished(content))]
    if not names:
        return
    figure = Figure(figsize=(6.0 * len(names), 5.0), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        axes.set(title=f"{SCORES[name]}, mean and span of the seeds", xlabel="seconds of training", ylabel="AP (%)")
        axes.grid(alpha=0.3)
        for index, (label, one) in enumerate(content["variants"].items()):
            _draw_curve(axes, _curves(one, name), label, index)
        axes.set_xlim(left=0)
    panels[0].set_ylim(bottom=0)  # of all: once set, the axis no longer grows
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", fontsize="small", ncols=3, frameon=False)
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def _curves(one: Mapping[str, Any], score: str) -> list[list[tuple[float, float]]]:
    """Seconds and score of the evaluations of each run that has come to its end."""
    found = [
        [(point["seconds"], point[score]) for point in run["points"] if score in point] for run in one["runs"].values()
    ]
    return [curve for curve in found if curve]


def _draw_curve(axes: Any, curves: Sequence[Sequence[tuple[float, float]]], label: str, index: int) -> None:
    if not curves:
        return
    shortest = min(map(len, curves))
    points = np.array([curve[:shortest] for curve in curves])  # [runs, evaluations, 2]
    seconds, values = points[..., 0].mean(axis=0), points[..., 1]
    style = ("-", "--", ":")[index // 10 % 3]
    axes.plot(seconds, values.mean(axis=0), color=f"C{index % 10}", linestyle=style, marker="o", label=label)
    axes.fill_between(seconds, values.min(axis=0), values.max(axis=0), color=f"C{index % 10}", alpha=0.15)
