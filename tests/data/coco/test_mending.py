"""What a copy by ``--fix`` holds: what was meant, and never less than can be kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from coco_data import sound

from hiera_det.data.coco.check import check_dataset
from hiera_det.data.coco.findings import Finding
from hiera_det.data.coco.repair import repair_coco_json
from hiera_det.errors import InputError

Write = Callable[..., Path]


@pytest.fixture
def mend(folder: Path, write: Write) -> Callable[[Any], tuple[list[Finding], dict[str, Any]]]:
    """What the check says, and the mended copy, which has to pass it."""

    def mend(data: Any) -> tuple[list[Finding], dict[str, Any]]:
        path = write(data)
        found = check_dataset(path, folder / "images")
        repair_coco_json(path, folder / "images", folder / "fixed.json")
        left = check_dataset(folder / "fixed.json", folder / "images")
        assert [finding for finding in left if finding.severity != "note"] == []
        return found, json.loads((folder / "fixed.json").read_text())

    return mend


Mend = Callable[[Any], tuple[list[Finding], dict[str, Any]]]


@pytest.mark.parametrize("of", ["annotations", "categories", "both", "words", "beside"])
def test_category_ids_of_the_other_type_are_written_as_the_ids(mend: Mend, of: str) -> None:
    data = sound()
    if of in ("annotations", "both"):
        for entry in data["annotations"]:
            entry["category_id"] = str(entry["category_id"])
    if of in ("categories", "both"):
        for entry in data["categories"]:
            entry["id"] = str(entry["id"])
    if of in ("words", "beside"):  # ids that are no numbers, and one that is among integers
        named = {7: "seven", 3: "7" if of == "beside" else "three"}
        for entries, key in ((data["categories"], "id"), (data["annotations"], "category_id")):
            for entry in entries:
                entry[key] = named.get(entry[key], entry[key]) if of == "words" or entry[key] == 3 else entry[key]
    found, fixed = mend(data)
    assert found[0].severity == "error"
    assert "write category_id as 7" in found[0].remedy or of != "annotations"
    names = {entry["id"]: entry["name"] for entry in fixed["categories"]}
    assert all(type(id_) is int for id_ in names)
    assert [names[entry["category_id"]] for entry in fixed["annotations"]] == ["fig", "date", "date"]


@pytest.mark.parametrize("of", ["annotations", "images"])
def test_image_ids_of_the_other_type_are_written_as_the_ids(mend: Mend, of: str) -> None:
    data = sound()
    for entry in data[of]:
        key = "image_id" if of == "annotations" else "id"
        entry[key] = str(entry[key])
    found, fixed = mend(data)
    assert "write image_id as " in found[0].remedy
    assert [entry["image_id"] for entry in fixed["annotations"]] == [1, 1, 1]


def test_ids_written_as_fractions_become_integers(mend: Mend) -> None:
    data = sound()
    for entry in data["categories"] + data["images"]:
        entry["id"] = float(entry["id"])
    _, fixed = mend(data)
    assert [entry["category_id"] for entry in fixed["annotations"]] == [7, 3, 3]
    assert all(type(entry["id"]) is int for entry in fixed["categories"] + fixed["images"])


def test_a_copy_without_any_annotation_is_refused(folder: Path, write: Write) -> None:
    data = sound()
    for entry in data["annotations"]:
        entry["category_id"] = "pear"
    with pytest.raises(
        InputError, match=r"all 3 annotations would be left out \(annotation left out: unknown category\)"
    ):
        repair_coco_json(write(data), folder / "images", folder / "fixed.json")
    assert not (folder / "fixed.json").exists()


def test_masks_in_a_form_that_is_unknown_stay(folder: Path, write: Write) -> None:
    data = sound()
    mask = [[{"left": 2, "top": 2}, {"left": 10, "top": 2}, {"left": 10, "top": 8}]]
    for entry in data["annotations"]:
        entry["segmentation"] = mask
    repair_coco_json(write(data), folder / "images", folder / "fixed.json")
    fixed = json.loads((folder / "fixed.json").read_text())
    assert [entry["segmentation"] for entry in fixed["annotations"]] == [mask] * 3


PAIRS = [[2, 2], [10, 2], [10, 8], [2, 8]]


@pytest.mark.parametrize(
    ("mask", "polygons"),
    [
        (PAIRS, 1),
        ([PAIRS], 1),
        ([[point] for point in PAIRS], 1),
        ([PAIRS, PAIRS], 2),
        ([PAIRS, [[1, 1], [2, 2]]], 1),
        ([[{"x": x, "y": y} for x, y in PAIRS]], 1),
        ([2, 2, 10, 2, 10, 8, 2, 8], 1),
    ],
)
def test_polygons_of_pairs_are_named_and_flattened(mend: Mend, mask: Any, polygons: int) -> None:
    data = sound()
    for entry in data["annotations"]:
        entry["segmentation"] = mask
    found, fixed = mend(data)
    assert [finding.kind for finding in found if finding.severity == "error"] == ["polygon-pairs"]
    assert [entry["segmentation"] for entry in fixed["annotations"]] == [[[2, 2, 10, 2, 10, 8, 2, 8]] * polygons] * 3


@pytest.mark.parametrize(
    ("key", "written"), [("file_name", "filename"), ("file_name", "FileName"), ("width", "widht"), ("height", "heigth")]
)
def test_misspelt_keys_of_images_are_told_and_renamed(mend: Mend, key: str, written: str) -> None:
    data = sound()
    for image in data["images"]:
        image[written] = image.pop(key)
    found, fixed = mend(data)
    assert f"rename '{written}' to '{key}'" in found[0].remedy
    assert fixed["images"] == sound()["images"]
