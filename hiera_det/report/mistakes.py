"""What a detector finds, misses and mixes up: matched by pycocotools at one overlap of boxes, and counted here.

Above a threshold each detection is one of `KINDS`. A class is told by its index, in ascending order of the ids.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "IOU",
    "KINDS",
    "Matches",
    "Mistakes",
    "best_threshold",
    "find_mistakes",
    "loaded",
    "match",
    "part_of_images",
]

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

#: Least overlap of a detection with the object that it finds, and with one that it is near.
IOU, NEAR = 0.5, 0.1
#: What a detection can be.
KINDS = ("right", "other class", "twice", "misplaced", "background")
RIGHT, OTHER, TWICE, NEARBY, BACKGROUND = range(len(KINDS))


@dataclass(frozen=True)
class Matches:
    """Detections and objects that count, of all classes, in columns; each class was matched on its own.

    Attributes:
        ids: of the detections, ``[D]``: places in the results, from 1.
        images: index of the image, by ascending id, ``[D]``.
        classes: ``[D]``.
        scores: ``[D]``.
        hits: id of the object that is found, 0 for none, ``[D]``.
        overlaps: with the own class's object that is overlapped most, ``[D]``.
        object_ids: ``[G]``.
        object_images: ``[G]``.
        object_classes: ``[G]``.
    """

    ids: Ints
    images: Ints
    classes: Ints
    scores: Floats
    hits: Ints
    overlaps: Floats
    object_ids: Ints
    object_images: Ints
    object_classes: Ints


def match(truth: Any, results: Sequence[dict[str, Any]]) -> Matches:
    """Match results with the objects of a pycocotools ``COCO``; what overlaps a crowd region only is left out."""
    evaluation = _evaluated(truth, loaded(truth, results), by_class=True)
    params = evaluation.params
    images = {id_: place for place, id_ in enumerate(params.imgIds)}
    classes = {id_: place for place, id_ in enumerate(params.catIds)}
    found: list[Any] = []
    objects: list[Any] = []
    for entry in filter(None, evaluation.evalImgs):
        image, category = images[entry["image_id"]], classes[entry["category_id"]]
        overlaps = evaluation.ious[entry["image_id"], entry["category_id"]]
        best = np.max(overlaps, axis=1) if np.size(overlaps) else np.zeros(len(entry["dtIds"]))
        columns = (entry["dtIds"], entry["dtScores"], entry["dtMatches"][0], best, entry["dtIgnore"][0])
        found += [
            (i, image, category, s, hit, o) for i, s, hit, o, ignored in zip(*columns, strict=True) if not ignored
        ]
        there = zip(entry["gtIds"], entry["gtIgnore"], strict=True)
        objects += [(id_, image, category) for id_, ignored in there if not ignored]
    columns_: Any = np.array(found, np.float64).reshape(-1, 6).T
    ids, at, category, scores, hits, overlap = columns_
    whole = (ids.astype(int), at.astype(int), category.astype(int))
    return Matches(*whole, scores, hits.astype(int), overlap, *np.array(objects, np.int64).reshape(-1, 3).T)


def _evaluated(truth: Any, found: Any, by_class: bool) -> Any:
    """COCO's matching at one overlap and for objects of any size."""
    from pycocotools.cocoeval import COCOeval

    evaluation = COCOeval(truth, found, "bbox")
    params = evaluation.params
    params.useCats, params.iouThrs = int(by_class), np.array([IOU])
    params.areaRng, params.areaRngLbl, params.maxDets = [[0, 1e10]], ["all"], [max(len(found.anns), 1)]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
    return evaluation


def loaded(truth: Any, results: Sequence[dict[str, Any]], form: str = "bbox") -> Any:
    """Results as pycocotools wants them, with their boxes or with their ``segmentation``; they are not changed."""
    # Where a result has a box, pycocotools takes the box's area for a mask's too.
    copies = [{key: result[key] for key in ("image_id", "category_id", form, "score")} for result in results]
    with contextlib.redirect_stdout(io.StringIO()):
        return truth.loadRes(copies) if copies else _part(truth, [])


def part_of_images(truth: Any, ids: Sequence[Any]) -> Any:
    """A ``COCO`` of some of its images."""
    return _part(truth, truth.loadAnns(truth.getAnnIds(imgIds=list(ids))), truth.loadImgs(list(ids)))


def _part(truth: Any, annotations: list[dict[str, Any]], images: list[dict[str, Any]] | None = None) -> Any:
    """A ``COCO`` of the same classes with some annotations, and some images or all."""
    part = type(truth)()
    part.dataset = {**truth.dataset, "annotations": annotations}
    if images is not None:
        part.dataset["images"] = images
    with contextlib.redirect_stdout(io.StringIO()):
        part.createIndex()
    return part


@dataclass(frozen=True)
class Curve:
    """Precision, recall and F1 over the score from which detections are taken, ``[D]`` each, scores descending."""

    scores: Floats
    precision: Floats
    recall: Floats
    f1: Floats

    @cached_property
    def best(self) -> int:
        """Where F1 is highest."""
        return int(self.f1.argmax())


def curve_of(matches: Matches, category: int | None = None) -> Curve:
    """Of all classes together, or of one."""
    own: Any = np.ones(len(matches.ids), bool) if category is None else matches.classes == category
    there = len(matches.object_ids) if category is None else int(np.count_nonzero(matches.object_classes == category))
    order = np.argsort(-matches.scores[own], kind="stable")
    scores = matches.scores[own][order]
    hits = np.cumsum(matches.hits[own][order] > 0)
    last: Any = np.append(np.diff(scores) != 0, True)[: len(scores)]  # of equal scores all are taken or none
    scores, hits, taken = scores[last], hits[last], np.flatnonzero(last) + 1.0
    return Curve(scores, hits / taken, hits / max(there, 1), 2 * hits / (taken + there))


def best_threshold(matches: Matches, category: int | None = None) -> tuple[float, float]:
    """The score from which detections are to be taken for the highest F1, and that F1; (0.5, 0) where nothing hits."""
    curve = curve_of(matches, category)
    if not len(curve.f1) or not curve.f1[curve.best] > 0:
        return 0.5, 0.0
    return float(np.floor(curve.scores[curve.best] * 1e4) / 1e4), float(curve.f1[curve.best])


@dataclass(frozen=True)
class Mistakes:
    """What detections from some score on are, and which objects they leave.

    Attributes:
        matches: of all detections.
        threshold: the score.
        kinds: of each detection its place in `KINDS`, -1 below the threshold, ``[D]``.
        missed: of each object whether none finds it, ``[G]``.
        confusion: ``[K + 1, K + 1]``: objects of the row's class that were found as the column's; in the last row what
            is no object, in the last column what is missed.
        mixed_up: objects that are found as another class: id of the object to the class.
    """

    matches: Matches
    threshold: float
    kinds: Ints
    missed: npt.NDArray[np.bool_]
    confusion: Ints
    mixed_up: dict[int, int]

    @cached_property
    def by_image(self) -> Ints:
        """Of each image: objects found, objects missed, detections that are wrong; ``[images, 3]``."""
        matches = self.matches
        count = 1 + max(matches.images.max(initial=-1), matches.object_images.max(initial=-1))
        wrong = self.kinds > RIGHT
        columns = (matches.object_images[~self.missed], matches.object_images[self.missed], matches.images[wrong])
        return np.stack([np.bincount(column, minlength=count) for column in columns], axis=1)

    def order(self) -> list[int]:
        """Images with objects or detections, the worst first: by F1, then more mistakes, then fewer objects found."""
        found, missed, wrong = self.by_image.T
        rows = np.flatnonzero(found + missed + wrong)
        f1 = 2 * found / np.maximum(2 * found + missed + wrong, 1)
        order: list[int] = rows[np.lexsort((found[rows], -(missed + wrong)[rows], f1[rows]))].tolist()
        return order


def find_mistakes(truth: Any, results: Sequence[dict[str, Any]], matches: Matches, threshold: float) -> Mistakes:
    """Sort detections from a score on by what is right or wrong with them.

    Args:
        truth: pycocotools' ``COCO``.
        results: those that were matched.
        matches: of `match`.
        threshold: least score.
    """
    kept = matches.scores >= threshold
    right = kept & (matches.hits > 0)
    missed = ~np.isin(matches.object_ids, matches.hits[right])
    mixed = _mixed_up(truth, results, matches, kept & ~right, missed)
    row_of = {id_: row for row, id_ in enumerate(matches.ids.tolist())}
    other = np.isin(np.arange(len(kept)), [row_of[id_] for id_ in mixed])
    wrong = [~kept, right, other, matches.overlaps >= IOU, matches.overlaps >= NEAR]
    kinds = np.select(wrong, [-1, RIGHT, OTHER, TWICE, NEARBY], BACKGROUND)
    count = len(truth.getCatIds())
    confusion: Ints = np.zeros((count + 1, count + 1), np.int64)
    np.add.at(confusion, (matches.classes[right], matches.classes[right]), 1)
    place_of = {id_: place for place, id_ in enumerate(matches.object_ids.tolist())}
    found_as = {object_: int(matches.classes[row_of[id_]]) for id_, object_ in mixed.items()}
    for object_, category in found_as.items():
        confusion[matches.object_classes[place_of[object_]], category] += 1
    nothing = missed & ~np.isin(matches.object_ids, list(found_as))
    np.add.at(confusion, (matches.object_classes[nothing], count), 1)
    np.add.at(confusion, (count, matches.classes[kinds > OTHER]), 1)
    return Mistakes(matches, threshold, kinds, missed, confusion, found_as)


def _mixed_up(
    truth: Any, results: Sequence[dict[str, Any]], matches: Matches, wrong: Any, missed: Any
) -> dict[int, int]:
    """Detections that lie on a missed object of another class, with its id: the rest is matched without classes."""
    ids = matches.ids[wrong].tolist()
    if not ids or not missed.any():
        return {}
    left = _part(truth, truth.loadAnns(matches.object_ids[missed].tolist()))
    found = loaded(left, [results[id_ - 1] for id_ in ids])
    evaluation = _evaluated(left, found, by_class=False)
    pairs = {}
    for entry in filter(None, evaluation.evalImgs):
        for place, hit in zip(entry["dtIds"], entry["dtMatches"][0], strict=True):
            if hit:
                pairs[ids[place - 1]] = int(hit)
    return pairs
