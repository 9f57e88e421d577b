"""Figures for a page: matplotlib's SVG, in the page's own colours, with a name that shows at a line under the mouse."""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["curves_by_class", "f1_curve", "svg"]

#: What becomes the page's text colour; no figure has it otherwise.
INK = "#010203"
#: Classes that a legend names.
NAMED = 8
_STYLE = {"svg.fonttype": "none", "font.size": 9.0, "axes.titlesize": 10.0}
_STYLE |= dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
_STYLE |= {"axes.edgecolor": INK, "legend.labelcolor": INK, "axes.titlecolor": INK}
_counter = itertools.count()


def svg(draw: Callable[[Any], None], size: tuple[float, float] = (4.4, 3.6), names: Sequence[str] = ()) -> str:
    """A figure as an element of a page.

    Args:
        draw: given the figure.
        size: in inches at 100 pixels; it grows and shrinks with the page.
        names: of lines whose ``gid`` is ``line-<place here>``, shown at the mouse.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": f"figure {next(_counter)}"}):  # ids are the page's only ones
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_alpha(0)
        draw(figure)
        for axes in figure.get_axes() + [axes for part in figure.subfigs for axes in part.get_axes()]:
            axes.patch.set_alpha(0)
        buffer = io.StringIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # the reader's fonts show the letters, not ours
            figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', text, count=1)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="line-(\d+)">', lambda found: _titled(names[int(found[1])]), text)
    return re.sub(r'<g id="[\w.]+">', "<g>", text)  # of several figures they would not be the only ones


def _titled(name: str) -> str:
    return f'<g class="named"><title>{escape(name)}</title>'


def curves_by_class(
    recall: npt.NDArray[np.float64], curves: npt.NDArray[np.float64], names: Sequence[str], title: str
) -> str:
    """Precision over recall, a line for each class and a thick one for their mean.

    Args:
        recall: ``[R]``.
        curves: ``[K, R]``, NaN for classes without objects.
        names: of the classes.
        title: of the figure.
    """

    def draw(figure: Any) -> None:
        axes = _axes(figure, title, "recall", "precision")
        there = np.flatnonzero(np.isfinite(curves).all(axis=1))
        for place in there.tolist():
            label = names[place] if len(there) <= NAMED else None
            (line,) = axes.plot(recall, curves[place], linewidth=1.0, alpha=0.85, label=label)
            line.set_gid(f"line-{place}")
        if len(there):
            axes.plot(recall, curves[there].mean(axis=0), color=INK, linewidth=2.2, label="mean of the classes")
        _legend_below(figure, axes)

    return svg(draw, names=names)


def f1_curve(
    scores: npt.NDArray[np.float64], values: dict[str, npt.NDArray[np.float64]], threshold: float, title: str
) -> str:
    """F1, precision and recall over the score, and the score that was chosen.

    Args:
        scores: ``[D]``.
        values: by name ``[D]``.
        threshold: where a line is drawn.
        title: of the figure.
    """

    def draw(figure: Any) -> None:
        axes = _axes(figure, title, "least score", "")
        chosen = np.unique(np.linspace(0, len(scores) - 1, 400).astype(int)) if len(scores) else []
        for name, column in values.items():
            axes.plot(scores[chosen], column[chosen], linewidth=2.2 if name == "F1" else 1.2, label=name)
        axes.axvline(threshold, color=INK, linestyle=":", label=f"best F1, {threshold:.2f}")
        _legend_below(figure, axes)

    return svg(draw)


def _axes(figure: Any, title: str, xlabel: str, ylabel: str) -> Any:
    """Axes from 0 to 1."""
    axes = figure.subplots()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, xlim=(0, 1.005), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    return axes


def _legend_below(figure: Any, axes: Any) -> None:
    """Where it hides nothing; names are no formulas."""
    handles, labels = axes.get_legend_handles_labels()
    shown = [label if len(label) <= 24 else label[:23] + "…" for label in labels]
    legend = figure.legend(handles, shown, loc="outside lower center", fontsize="small", ncols=3, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
