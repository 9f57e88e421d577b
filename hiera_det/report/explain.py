"""Why AP may be 0: what was found, beside what was to be found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hiera_det.errors import printable

__all__ = ["why_zero"]

#: Class names of a list that the paragraph shows.
SHOWN = 3
#: Boxes so many times larger or smaller than the objects are worth a word.
OTHER_SIZE = 4.0


def why_zero(found: Sequence[Mapping[str, Any]], truth: Any, facts: Sequence[str] = ()) -> str:
    """A paragraph on an evaluation without a hit.

    Args:
        found: COCO's results, with the JSON's category ids.
        truth: pycocotools' ``COCO`` of the annotations.
        facts: half sentences on thresholds, weights and iterations.
    """
    annotations = [annotation for annotation in truth.anns.values() if not annotation.get("iscrowd", 0)]
    head = (
        f"AP is 0: {len(found)} objects were found where {len(annotations)} are annotated"
        if found
        else (f"AP is 0, or no number: nothing was found where {len(annotations)} objects are annotated")
    )
    parts = [*_on_scores(found), *_on_sizes(found, annotations), *_on_classes(found, annotations, truth), *facts]
    ways = "train longer, load trained weights, or look at the pictures in report.html"
    return f"{head}. What may be the reason: {'; '.join(parts)}. Ways on: {ways}."


def _on_scores(found: Sequence[Mapping[str, Any]]) -> list[str]:
    if not found:
        return ["no score reached the threshold"]
    scores = np.array([result["score"] for result in found])
    return [f"the highest score is {scores.max():.3f}, half are below {np.median(scores):.3f}"]


def _on_sizes(found: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Usual sides of boxes, in pixels."""
    sides = [_sides(result["bbox"] for result in of if "bbox" in result) for of in (found, annotations)]
    if not all(len(side) for side in sides):
        return []
    ours, theirs = (float(np.median(side)) for side in sides)
    other = max(ours, theirs) > OTHER_SIZE * max(min(ours, theirs), 1e-6)
    note = ", which points to images of other sizes or to boxes in another form" if other else ""
    return [f"half of the boxes found are smaller than {ours:.0f} pixels, of the objects than {theirs:.0f}{note}"]


def _sides(boxes: Iterable[Sequence[float]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    areas = np.array([box[2] * box[3] for box in boxes], dtype=np.float64)
    return np.sqrt(areas.clip(0))


def _on_classes(found: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]], truth: Any) -> list[str]:
    """Which classes were found and which were to be, where there are several."""
    if not found or len(truth.cats) < 2:
        return []
    ours, theirs = (Counter(entry["category_id"] for entry in entries) for entries in (found, annotations))
    return [f"found were {_most(ours, truth)}; annotated are {_most(theirs, truth)}"]


def _most(counts: Counter[int], truth: Any) -> str:
    """The most frequent classes by name."""
    named = (
        f"{printable(str(truth.cats[id_]['name']))} {n}x" for id_, n in counts.most_common(SHOWN) if id_ in truth.cats
    )
    return ", ".join(named) + (", ..." if len(counts) > SHOWN else "")
