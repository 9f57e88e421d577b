"""Boxes in another form than [x, y, width, height]: recognised, and sound ones not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_data import annotation, sound

from hiera_det.data.coco.box_form import CENTRES, CORNERS, box_form
from hiera_det.data.coco.check import check_dataset
from hiera_det.data.coco.repair import repair_coco_json
from hiera_det.errors import InputError

WIDTH, HEIGHT = 640, 480


def boxes(count: int = 60, largest: float = 0.6, seed: int = 0) -> np.ndarray[Any, Any]:
    """Boxes XYWH inside their images, of all sizes and places."""
    rng = np.random.default_rng(seed)
    sizes = rng.uniform(0.02, largest, (count, 2)) * (WIDTH, HEIGHT)
    return np.hstack((rng.uniform(0, 1, (count, 2)) * ((WIDTH, HEIGHT) - sizes), sizes)).round(2)


def corners(b: Any) -> Any:
    return np.hstack((b[:, :2], b[:, :2] + b[:, 2:]))


def centres(b: Any) -> Any:
    return np.hstack((b[:, :2] + b[:, 2:] / 2, b[:, 2:]))


def said(write: Callable[..., Path], values: Any) -> dict[str, str]:
    """Texts by kind of what is said of boxes without masks."""
    entries = [annotation(n, bbox=box, area=100, segmentation=[]) for n, box in enumerate(values.tolist(), start=1)]
    image = {"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}
    path = write({**sound(), "images": [image], "annotations": entries})
    return {finding.kind: finding.text for finding in check_dataset(path, path.parent / "images")}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("largest", [0.1, 0.6])
@pytest.mark.parametrize(("form", "kind", "name"), [(corners, "box-xyxy", CORNERS), (centres, "box-centre", CENTRES)])
def test_another_form_is_named(
    folder: Path, write: Any, form: Any, kind: str, name: str, largest: float, seed: int
) -> None:
    found = said(write, form(boxes(300, largest, seed)))
    assert name in found[kind]
    assert {"box-xyxy", "box-centre", "box-outside", "box-mostly-outside"} & set(found) == {kind}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("largest", [0.05, 0.3, 0.9])
def test_sound_boxes_are_of_no_other_form(largest: float, seed: int) -> None:
    sound_ones = boxes(100, largest, seed)
    sizes = np.full((100, 2), (WIDTH, HEIGHT), float)
    rounded = np.hstack((np.floor(sound_ones[:, :2]) - 2, np.ceil(sound_ones[:, 2:]) + 4))  # over each border
    inner = np.hstack((sound_ones[:, :2], sound_ones[:, 2:] + 3))  # over the right and lower border, by little
    for values in (sound_ones, rounded, inner):
        assert box_form(values, sizes) == ""


def test_boxes_of_a_larger_image_are_of_no_form_and_worth_a_warning(folder: Path, write: Any) -> None:
    found = said(write, boxes() * 3)
    assert "leave their image" in found["box-mostly-outside"]
    assert "is this meant" not in found["box-mostly-outside"]


def test_fractions_and_percent_are_named(folder: Path, write: Any) -> None:
    shares = boxes() / (WIDTH, HEIGHT, WIDTH, HEIGHT)
    for form in (shares, centres(shares), corners(shares)):
        assert "are these fractions of the image?" in said(write, form)["box-fractions"]
    assert "are these percent of the image?" in said(write, shares * 100)["box-percent"]
    assert not {"box-percent", "box-fractions"} & set(said(write, boxes()))
    assert "box-percent" not in said(write, boxes(60, 0.1) * 0.3)
    assert "box-percent" not in said(write, shares[:3] * 100)  # by chance, perhaps


@pytest.mark.parametrize(
    ("known", "used", "says"),
    [
        (
            (1, 2, 3),
            (0, 1, 2),
            "counts from 0 and the ids in 'categories' from 1: add 1 to each category_id, or take 1",
        ),
        (
            (0, 1, 2),
            (1, 2, 3),
            "counts from 1 and the ids in 'categories' from 0: take 1 from each category_id, or add",
        ),
        ((1, 2, 3), (1, 2, 9), "add the category or remove the annotations"),
    ],
)
def test_category_ids_that_count_from_another_number(
    folder: Path, write: Any, known: tuple[int, ...], used: tuple[int, ...], says: str
) -> None:
    data = {**sound(), "categories": [{"id": id_, "name": f"class {id_}"} for id_ in known]}
    for entry, id_ in zip(data["annotations"], used, strict=True):
        entry["category_id"] = id_
    path = write(data)
    (found,) = (f for f in check_dataset(path, folder / "images") if f.severity == "error")
    assert found.kind == "annotation-category"
    assert says in found.remedy


@pytest.mark.parametrize(
    ("known", "used", "says"),
    [
        (
            (1, 2),
            (0, 1, 1),
            "counts from 0 and the ids in 'images' from 1: add 1 to each image_id, or take 1 from each",
        ),
        ((0, 1), (1, 2, 2), "counts from 1 and the ids in 'images' from 0: take 1 from each image_id, or add 1"),
        ((1, 2), (1, 2, 9), "add the image or remove the annotations"),
        ((1, 2), (0, 1, 2), "add the image or remove the annotations"),  # the last would have no image
    ],
)
def test_image_ids_that_count_from_another_number_are_not_mended_by_leaving_out(
    folder: Path, write: Any, known: tuple[int, ...], used: tuple[int, ...], says: str
) -> None:
    data = sound()
    for image, id_ in zip(data["images"], known, strict=True):
        image["id"] = id_
    for entry, id_ in zip(data["annotations"], used, strict=True):
        entry["image_id"] = id_
    path = write(data)
    (found,) = (f for f in check_dataset(path, folder / "images") if f.severity == "error")
    assert found.kind == "annotation-image"
    assert says in found.remedy
    if "counts" in says:
        with pytest.raises(InputError, match=r"image ids \d to \d in 'annotations', \d to \d in 'images'"):
            repair_coco_json(path, folder / "images", folder / "fixed.json")
    else:
        repair_coco_json(path, folder / "images", folder / "fixed.json")
