"""Checks of annotations against each other, and of boxes against their masks, of all at once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hiera_det.data.coco.findings import Findings, short
from hiera_det.data.coco.rle import rle_extent, run_lengths
from hiera_det.data.coco.schema import Floats
from hiera_det.data.coco.values import Bools, Linked, tell

__all__ = ["check_agreement", "check_repeated", "frozen"]

#: IoU of box and mask's extent that most annotations exceed; single ones below the second have got another's mask.
USUAL_IOU, LEAST_IOU = 0.6, 0.1
#: Pixels by which a box may differ from its mask's extent: boxes are rounded outwards, outlines run through centres.
SLACK = 1
#: IoU from which on another reading of the boxes is taken for what was meant.
SURE_IOU = 0.85
#: RLEs that are read once more, by rows.
TRIED = 200

#: An odd number of 64 bits, to mix hashes by.
FACTOR = np.uint64(0x9E3779B97F4A7C15)

Reading: TypeAlias = Callable[[Floats], Floats]

#: What boxes may be in the place of [x, y, width, height], and how these become corners.
READINGS: dict[str, Reading] = {
    "is the box [centre x, centre y, width, height]?": lambda b: np.hstack(
        (b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2)
    ),
    "is the box [x1, y1, x2, y2]?": lambda b: b,
    "is the box [y, x, height, width]?": lambda b: np.hstack((b[:, 1::-1], b[:, 1::-1] + b[:, :1:-1])),
    "is the box [y1, x1, y2, x2]?": lambda b: b[:, [1, 0, 3, 2]],
}


def check_repeated(linked: Linked, findings: Findings) -> None:
    """Tell of annotations that repeat another one: same image, category, box and mask."""
    annotations = linked.annotations
    boxes = annotations.boxes + 0.0  # no negative zeros
    # A hash of 64 bits singles out the few that are worth a look; sorting whole rows takes ten times as long.
    hashes: npt.NDArray[np.uint64] = np.zeros(len(annotations), np.uint64)
    for column in (linked.rows, annotations.category_ids, *boxes.view(np.int64).T):
        mixed = column.astype(np.uint64)
        # Doubles of whole numbers differ in their high bits only, which multiplying would push out.
        hashes = (hashes ^ mixed ^ (mixed >> np.uint64(32))) * FACTOR
        hashes ^= hashes >> np.uint64(29)
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    repeated: Bools = np.zeros(len(annotations), bool)
    seen = set()
    for index in np.flatnonzero((counts[inverse.reshape(-1)] > 1) & linked.sound & ~annotations.is_empty).tolist():
        key = _key(linked, index)
        repeated[index] = key in seen
        seen.add(key)
    if repeated.any():
        said = f"{int(repeated.sum())} annotations repeat another one (same image, category, box and mask): "
        tell(linked, repeated, "annotation-repeated", said, findings)


def _key(linked: Linked, index: int) -> Hashable:
    """All that makes an annotation the one it is."""
    annotations = linked.annotations
    place = int(linked.rows[index]), int(annotations.category_ids[index]), bool(annotations.crowd[index])
    polygons = tuple(polygon.tobytes() for polygon in annotations.polygons(index))
    rest = frozen([annotations.boxes[index].tolist(), annotations.rles.get(index), annotations.keypoints.get(index)])
    return place, polygons, rest


def frozen(value: Any) -> Hashable:
    """JSON's lists and objects as something that sets can hold."""
    if isinstance(value, list):
        return tuple(map(frozen, value))
    return tuple((key, frozen(value[key])) for key in sorted(value)) if isinstance(value, dict) else value


def check_agreement(linked: Linked, extents: Floats, findings: Findings) -> None:
    """Tell of boxes that are not those of their masks.

    Args:
        linked: the annotations.
        extents: x1, y1, x2, y2 of each mask, ``[N, 4]``; NaN without one.
        findings: is added to.
    """
    boxes = linked.annotations.boxes
    ious = _iou(np.hstack((boxes[:, :2], boxes[:, :2] + boxes[:, 2:])), extents)
    known = linked.sound & ~linked.annotations.crowd & np.isfinite(ious) & (boxes[:, 2:] > 0).all(1)
    if "box-fractions" in findings or not known.any():
        return
    usual = float(np.median(ious[known]))
    wrong = known & (ious < (USUAL_IOU if usual < USUAL_IOU else LEAST_IOU))
    if not wrong.any():
        return
    index = int(np.flatnonzero(wrong)[0])
    left, top, right, bottom = extents[index].tolist()
    said = (
        f"boxes of {int(wrong.sum())} of {int(known.sum())} annotations are not those of their masks, first: "
        f"annotation {linked.annotations.ids[index]} has the box {short(boxes[index].tolist())}, its mask "
        f"{[round(value, 2) for value in (left, top, right - left, bottom - top)]}"
    )
    hint = _hint(linked, extents, wrong)
    findings.add(
        "box-unlike-mask",
        f"{said}: {hint}" if hint else said,
        annotation_id=int(linked.annotations.ids[index]),
        count=int(wrong.sum()),
    )


def _hint(linked: Linked, extents: Floats, wrong: Bools) -> str:
    """Which reading of boxes or masks makes them agree; empty if none does."""
    boxes = linked.annotations.boxes
    found = {hint: float(np.median(_iou(read(boxes[wrong]), extents[wrong]))) for hint, read in READINGS.items()}
    tried = [index for index in linked.annotations.rles if wrong[index]][:TRIED]
    if tried:
        by_rows = np.array([_extent_by_rows(linked, index) for index in tried])
        corners = np.hstack((boxes[tried, :2], boxes[tried, :2] + boxes[tried, 2:]))
        hint = "do the RLE's counts run along rows? COCO's run down the columns"
        found[hint] = float(np.median(_iou(corners, by_rows)))
    best = max(found, key=lambda hint: found[hint])
    return best if found[best] > SURE_IOU else ""


def _extent_by_rows(linked: Linked, index: int) -> list[float]:
    runs = run_lengths(linked.annotations.rles[index].get("counts"))
    assert runs is not None  # it has an extent
    top, left, bottom, right = rle_extent(runs, int(linked.sizes[index, 0]))
    return [left, top, right, bottom]


def _iou(corners: Floats, extents: Floats) -> Floats:
    """IoU of x1, y1, x2, y2 ``[N, 4]``, where the second ones may be moved by `SLACK` to fit; NaN where one is NaN."""
    with np.errstate(invalid="ignore", over="ignore"):
        near = extents + np.clip(corners - extents, -SLACK, SLACK)
        low, high = np.maximum(corners[:, :2], near[:, :2]), np.minimum(corners[:, 2:], near[:, 2:])
        both = np.prod(np.maximum(high - low, 0), axis=1)
        areas = [np.prod(np.maximum(c[:, 2:] - c[:, :2], 0), axis=1) for c in (corners, near)]
        return np.asarray(both / np.maximum(areas[0] + areas[1] - both, 1e-9))
