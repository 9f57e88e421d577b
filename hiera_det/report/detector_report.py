"""What a report says of a detector: AP by class and size, curves, mistakes, and images where it does best and worst."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from hiera_det.report.figures import curves_by_class, f1_curve
from hiera_det.report.mistakes import IOU, KINDS, Matches, Mistakes, best_threshold, curve_of, find_mistakes, match
from hiera_det.report.page import Bar, Heat, Pair, Section, Table
from hiera_det.report.scores import SIZES, size_of

__all__ = ["DetectorReport"]

#: Pairs of pictures, classes of a confusion matrix, and lines of what goes wrong most often.
WORST, BEST, MATRIX, OFTEN = 6, 4, 24, 12
#: `KINDS` in a table.
IN_WORDS = (
    "right",
    "on an object of another class",
    "on one that is found already",
    "badly placed",
    "on the background",
)
TASKS = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}

#: Given an image's id, remarks on its objects by id, and on its detections by their place in the results from 1: a pair
#: of pictures with its title, or None where the image cannot be read.
Draw = Callable[[Any, Mapping[int, str], Mapping[int, str]], Pair | None]


@dataclass(frozen=True)
class DetectorReport:
    """The parts of a report that come from one evaluation.

    Attributes:
        truth: pycocotools' ``COCO`` of what was evaluated on.
        results: detections, as COCO has them.
        details: by task, see `hiera_det.report.scores.details_of`.
    """

    truth: Any
    results: Sequence[dict[str, Any]]
    details: Mapping[str, Mapping[str, Any]]

    @cached_property
    def names(self) -> list[str]:
        """Of the classes by index."""
        return [category["name"] for category in self.truth.loadCats(sorted(self.truth.getCatIds()))]

    @cached_property
    def matches(self) -> Matches:
        """Of boxes."""
        return match(self.truth, self.results)

    @cached_property
    def threshold(self) -> tuple[float, float]:
        """The score of the best F1, and that F1."""
        return best_threshold(self.matches)

    @cached_property
    def mistakes(self) -> Mistakes:
        """From the threshold on."""
        return find_mistakes(self.truth, self.results, self.matches, self.threshold[0])

    def thresholds(self) -> dict[str, float]:
        """Of each class that something was found of."""
        found = {name: best_threshold(self.matches, place) for place, name in enumerate(self.names)}
        return {name: score for name, (score, f1) in found.items() if f1 > 0}

    def facts(self) -> list[tuple[str, str]]:
        """What is read first."""
        score, f1 = self.threshold
        ap = [(f"{TASKS.get(task, task)} AP", _number(_mean(one["ap"][0]))) for task, one in self.details.items()]
        ap50 = [("box AP50", _number(_mean(self.details["bbox"]["ap50"])))] if "bbox" in self.details else []
        images, objects = len(self.truth.imgs), len(self.matches.object_ids)
        counts = [("images evaluated", f"{images:,}"), ("objects in them", f"{objects:,}")]
        return [*ap, *ap50, ("best F1", f"{f1:.3f}"), ("its threshold", f"{score:.3f}"), *counts]

    def sections(self, draw: Draw) -> list[Section]:
        """In the order of the page."""
        order = self.mistakes.order()
        best = [place for place in reversed(order) if self.mistakes.by_image[place, 0]][:BEST]
        worst = [place for place in order if place not in best][:WORST]
        return [
            self._average_precision(),
            self._curves(),
            self._what_goes_wrong(),
            self._images("Worst images", worst, draw),
            self._images("Best images", best, draw),
        ]

    def _average_precision(self) -> Section:
        """A row for each class, the best first, under one for all."""
        columns: dict[str, Sequence[float | None]] = {}
        for which in range(1 + len(SIZES)):  # AP of both tasks side by side, what is read most at the left
            for task, one in self.details.items():
                word = TASKS.get(task, task)
                if not which:
                    columns |= {f"{word} AP": one["ap"][0]}
                elif which < len(one["areas"]):
                    columns |= {f"{word} AP {one['areas'][which]}": one["ap"][which]}
        columns |= {f"{TASKS.get(task, task)} AP50": one["ap50"] for task, one in self.details.items()}
        head = ["class", "objects", "precision", "recall", *columns]
        rows = [self._row(place, name, columns) for place, name in enumerate(self.names)]
        first = next(iter(self.details.values()), {"ap": [[None] * len(rows)]})["ap"][0]
        known = np.array([-1 if value is None else value for value in first])
        order = np.argsort(-known, kind="stable").tolist()
        all_of = self._row(None, "all classes", columns)
        text = (
            "AP in percent, with the number of objects of that size in parentheses; small has less than 32x32 pixels, "
            f"large 96x96 or more. Precision and recall: boxes, overlap {IOU:g}, the score of the best F1.",
        )
        return Section("AP by class and size", text, tables=[Table(head, [all_of, *(rows[place] for place in order)])])

    @cached_property
    def _counts(self) -> npt.NDArray[np.int64]:
        """Objects by class and size, ``[K, 3]``."""
        counts: npt.NDArray[np.int64] = np.zeros((len(self.names), len(SIZES)), np.int64)
        np.add.at(counts, (self.matches.object_classes, self._sizes), 1)
        return counts

    @cached_property
    def _sizes(self) -> npt.NDArray[np.int64]:
        """Of each object that counts."""
        return size_of(np.array([self.truth.anns[id_]["area"] for id_ in self.matches.object_ids.tolist()]))

    def _row(self, place: int | None, name: str, columns: Mapping[str, Sequence[float | None]]) -> list[Any]:
        """One class, or with None all of them."""
        counts = self._counts.sum(axis=0) if place is None else self._counts[place]
        by_size = dict(zip(SIZES, counts.tolist(), strict=True))
        chosen = slice(None, -1) if place is None else slice(place, place + 1)
        right = np.diag(self.mistakes.confusion)[chosen].sum()
        taken = (self.mistakes.kinds >= 0) & (True if place is None else self.matches.classes == place)
        row: list[Any] = [name, f"{counts.sum():,}", _share(right, taken.sum()), _share(right, counts.sum())]
        for title, column in columns.items():
            value = _mean(column) if place is None else column[place]
            size = title.rpartition(" ")[2]
            if size in by_size:
                row.append(f"{_number(value)} ({by_size[size]:,})")
            else:
                row.append(Bar(_number(value), (value or 0) / 100) if size == "AP" else _number(value))
        return row

    def _curves(self) -> Section:
        """Precision over recall, and F1 over the score."""
        recall = np.linspace(0, 1, 101)
        figures = []
        for task, one in self.details.items():
            for overlap, values in one["curves"].items():
                title = f"{TASKS.get(task, task)} precision and recall, overlap {overlap}"
                figures.append(curves_by_class(recall, np.array(values, np.float64), self.names, title))
        curve = curve_of(self.matches)
        columns = {"F1": curve.f1, "precision": curve.precision, "recall": curve.recall}
        score, f1 = self.threshold
        figures.append(f1_curve(curve.scores, columns, score, f"all classes together, overlap {IOU:g}"))
        text = (
            f"The best F1 of boxes, {f1:.3f}, is that of all with a score of at least {score:.3f}: hiera-det predict "
            "takes it where no other is given. A line's class shows at the mouse.",
        )
        return Section("Precision and recall", text, figures)

    def _what_goes_wrong(self) -> Section:
        """Kinds of mistakes, what is missed and mixed up most often, and the confusion matrix."""
        mistakes = self.mistakes
        kinds = [(words, f"{int((mistakes.kinds == place).sum()):,}") for place, words in enumerate(IN_WORDS)]
        none = int(mistakes.confusion[:, -1].sum())
        kinds.append(("objects that nothing was found of", f"{none:,}"))
        missed, mixed = self._missed(), self._mixed()
        text = [f"Detections with a score of at least {mistakes.threshold:.3f}, boxes at an overlap of {IOU:g}."]
        text += [f"Most often missed: {'; '.join(f'{a} {b} ({c} of {d})' for b, a, c, d, _ in missed[:3])}."] * bool(
            missed
        )
        text += [f"Most often mixed up: {'; '.join(f'{a} taken for {b} ({n})' for a, b, n in mixed[:3])}."] * bool(
            mixed
        )
        tables = [Table(("detections", "number"), kinds, "what detections are")]
        if missed:
            head = ("class", "size", "missed", "of objects", "share")
            tables.append(Table(head, missed[:OFTEN], "missed, or found as another class"))
        if mixed:
            tables.append(Table(("is", "taken for", "times"), mixed[:OFTEN], "mixed up"))
        return Section("What goes wrong", text, tables=[*tables, self._confusion()])

    def _missed(self) -> list[tuple[str, str, int, int, Bar]]:
        """Class, size, and how many of them are missed, the most first."""
        missed = np.zeros_like(self._counts)
        lost = self.mistakes.missed
        np.add.at(missed, (self.matches.object_classes[lost], self._sizes[lost]), 1)
        rows = []
        for place in np.argsort(-missed, axis=None, kind="stable"):
            category, size = divmod(int(place), len(SIZES))
            count, there = int(missed[category, size]), int(self._counts[category, size])
            if count:
                share = Bar(f"{100 * count / there:.0f}%", count / there)
                rows.append((self.names[category], list(SIZES)[size], count, there, share))
        return rows

    def _mixed(self) -> list[tuple[str, str, int]]:
        """True class, found class, times, the most first."""
        confusion = self.mistakes.confusion[:-1, :-1].copy()
        np.fill_diagonal(confusion, 0)
        pairs = np.argsort(-confusion, axis=None, kind="stable")[: np.count_nonzero(confusion)]
        places = (divmod(int(place), len(confusion)) for place in pairs)
        return [(self.names[a], self.names[b], int(confusion[a, b])) for a, b in places]

    def _confusion(self) -> Table:
        """Counts, coloured by their share of the row; of many classes those that are confused most."""
        confusion, names = self.mistakes.confusion, self.names
        caption = "confusion matrix: rows are what is there, columns what is found"
        if len(names) > MATRIX:
            off = confusion - np.diag(np.diag(confusion))
            chosen = np.sort(np.argsort(-(off.sum(axis=0) + off.sum(axis=1))[:-1], kind="stable")[:MATRIX])
            confusion, names = _merged(confusion, chosen), [*(names[place] for place in chosen), "other classes"]
            caption += f"; the {MATRIX} of {len(self.names)} classes with most mistakes"
        rows = []
        for place, (name, counts) in enumerate(zip([*names, "(background)"], confusion, strict=True)):
            total = max(int(counts.sum()), 1)
            cells = [Heat(f"{c}" if c else "", 0.75 * c / total, at == place) for at, c in enumerate(counts.tolist())]
            rows.append([name, *cells])
        return Table(["there \\ found", *names, "(missed)"], rows, caption)

    def _images(self, title: str, places: Iterable[int], draw: Draw) -> Section:
        """Truth and detections side by side."""
        ids = sorted(self.truth.getImgIds())
        pairs = [draw(ids[place], *self._remarks(place)) for place in places]
        shown = [pair for pair in pairs if pair]
        missing = len(pairs) - len(shown)
        text = [f"From the score {self.mistakes.threshold:.3f} on; by F1, then by the number of mistakes."]
        text += [f"{missing} of these images cannot be read now, and are not shown."] * bool(missing)
        return Section(title, text, pairs=shown)

    def _remarks(self, place: int) -> tuple[dict[int, str], dict[int, str]]:
        """What is said of an image's missed objects, and of its detections that are taken."""
        mistakes, matches = self.mistakes, self.matches
        own = (matches.object_images == place) & mistakes.missed
        found_as = {id_: self.names[category] for id_, category in mistakes.mixed_up.items()}
        objects = {id_: f" ({_as(found_as.get(id_))})" for id_ in matches.object_ids[own].tolist()}
        taken = np.flatnonzero((matches.images == place) & (mistakes.kinds >= 0)).tolist()
        kinds = {row: int(mistakes.kinds[row]) for row in taken}
        return objects, {int(matches.ids[row]): f" ({KINDS[kind]})" if kind else "" for row, kind in kinds.items()}


def _as(name: str | None) -> str:
    return f"found as {name}" if name else "missed"


def _merged(confusion: npt.NDArray[np.int64], chosen: Any) -> npt.NDArray[np.int64]:
    """The matrix of some classes, of the others together, and of the background."""
    count = len(confusion) - 1
    group = np.full(count + 1, len(chosen))
    group[chosen], group[count] = np.arange(len(chosen)), len(chosen) + 1
    merged: npt.NDArray[np.int64] = np.zeros((len(chosen) + 2,) * 2, np.int64)
    np.add.at(merged, (group[:, None], group[None, :]), confusion)
    return merged


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"  # noqa: RUF001  a dash where there is no number


def _share(part: Any, whole: Any) -> str:
    return f"{part / whole:.2f}" if whole else "–"  # noqa: RUF001
