"""Annotations against each other, and boxes against masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_data import HEIGHT, WIDTH, annotation, box_at, sound

from hiera_det.data.coco.check import check_dataset
from hiera_det.data.coco.findings import Finding
from hiera_det.data.coco.repair import repair_coco_json

Write = Callable[..., Path]
#: Boxes XYWH in the image, none like another.
BOXES = [(1, 1, 6, 8), (5, 2, 9, 4), (2, 6, 8, 5), (8, 3, 7, 9), (3, 3, 4, 7)]


def warnings(path: Path) -> list[Finding]:
    return [finding for finding in check_dataset(path, path.parent / "images") if finding.severity != "note"]


def counts(mask: np.ndarray[Any, Any], order: Any) -> list[int]:
    flat = mask.ravel(order=order)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    return [0, *runs] if flat[0] else runs


def rle(x: int, y: int, width: int, height: int, order: str = "F") -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + height, x : x + width] = 1
    return {"size": [HEIGHT, WIDTH], "counts": counts(mask, order)}


@pytest.mark.parametrize("fields", [{}, {"segmentation": []}, {"segmentation": rle(2, 2, 8, 6)}, {"iscrowd": 1}])
def test_an_annotation_that_repeats_another_is_said_and_left_out(folder: Path, write: Write, fields: Any) -> None:
    data = {**sound(), "annotations": [annotation(i, **{**fields, **box}) for i, box in ((1, {}), (5, {}), (6, {}))]}
    data["annotations"] += [annotation(7, category_id=9, **fields), annotation(8, image_id=2, **fields)]
    data["annotations"] += [annotation(9, **{**fields, "bbox": [2, 2, 8, 7]})]
    path = write(data)
    (found,) = (finding for finding in warnings(path) if finding.kind == "annotation-repeated")
    assert (found.count, found.annotation_id, found.severity) == (2, 5, "warning")
    repair_coco_json(path, folder / "images", folder / "fixed.json")
    assert [entry["id"] for entry in json.loads((folder / "fixed.json").read_text())["annotations"]] == [1, 7, 8, 9]


def boxes_as(form: Callable[[int, int, int, int], list[float]], order: str | None = None) -> dict[str, Any]:
    entries = [annotation(number, **box_at(*box)) for number, box in enumerate(BOXES, start=1)]
    for entry, box in zip(entries, BOXES, strict=True):
        entry.update(bbox=form(*box), area=box[2] * box[3])
        if order:
            entry["segmentation"] = rle(*box, order=order)
    return {**sound(), "annotations": entries}


@pytest.mark.parametrize("order", [None, "F"])
@pytest.mark.parametrize(
    ("form", "says"),
    [
        (lambda x, y, w, h: [x + w / 2, y + h / 2, w, h], "is the box [centre x, centre y, width, height]?"),
        (lambda x, y, w, h: [x, y, x + w, y + h], "is the box [x1, y1, x2, y2]?"),
        (lambda x, y, w, h: [y, x, h, w], "is the box [y, x, height, width]?"),
        (lambda x, y, w, h: [(x + 5) % 9, (y + 5) % 7, 3, 3], ""),
    ],
)
def test_boxes_that_are_not_those_of_their_masks(folder: Path, write: Write, form: Any, says: str, order: Any) -> None:
    (found,) = (finding for finding in warnings(write(boxes_as(form, order))) if finding.kind == "box-unlike-mask")
    assert found.text.endswith(says or "]")
    assert "has the box" in found.text


def test_rles_along_rows_are_recognised_and_those_down_columns_right(folder: Path, write: Write) -> None:
    kept = [lambda x, y, w, h: [x, y, w, h]][0]
    assert warnings(write(boxes_as(kept, "F"))) == []
    (found,) = warnings(write(boxes_as(kept, "C")))
    assert "do the RLE's counts run along rows?" in found.text


def test_a_single_mask_of_another_object_is_named_and_rounding_is_not(folder: Path, write: Write) -> None:
    data = boxes_as(lambda x, y, w, h: [x - 0.6, y - 0.6, w + 1.2, h + 1.2])
    assert warnings(write(data)) == []
    data["annotations"][1]["segmentation"] = box_at(1, 10, 2, 2)["segmentation"]
    assert [(f.kind, f.annotation_id) for f in warnings(write(data)) if f.kind == "box-unlike-mask"] == [
        ("box-unlike-mask", 2)
    ]


@pytest.mark.parametrize("other", ["Fig", "fig ", "FI G", "ﬁg"])
def test_names_that_people_take_for_the_same(folder: Path, write: Write, other: str) -> None:
    data = sound()
    data["categories"].append({"id": 20, "name": other})
    (found,) = (f for f in check_dataset(write(data), folder / "images") if f.kind == "category-alike")
    assert found.severity == "note"
    assert repr(other) in found.text
    assert "'fig'" in found.text
