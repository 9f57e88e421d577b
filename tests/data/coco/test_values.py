"""What annotations hold: each oddity is one finding of its kind, and evaluation of what passes gives the right AP."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_data import HEIGHT, WIDTH, annotation, sound

from hiera_det.data.coco.check import check_coco_json, check_dataset
from hiera_det.data.coco.findings import Finding
from hiera_det.data.coco.repair import repair_coco_json
from hiera_det.data.coco.rle import rle_area, run_lengths
from hiera_det.data.coco.write import completed_copy
from hiera_det.errors import InputError

Change = Callable[[dict[str, Any]], object]
SQUARE = [2, 2, 10, 2, 10, 8, 2, 8]
BIG = 10**400


def first(**fields: Any) -> Change:
    """A change of the first annotation, whose id is 10."""
    return lambda data: data["annotations"][0].update(fields)


def without(*keys: str) -> Change:
    return lambda data: [data["annotations"][0].pop(key) for key in keys]


def image(**fields: Any) -> Change:
    return lambda data: data["images"][1].update(fields)


def every(**fields: Any) -> Change:
    return lambda data: [entry.update(fields) for entry in data["annotations"]]


def rename(old: str, new: str) -> Change:
    return lambda data: data["annotations"][0].update({new: data["annotations"][0].pop(old)})


def more(*entries: dict[str, Any]) -> Change:
    return lambda data: data["annotations"].extend(entries)


#: Change, severity, kind, what the line says.
ODD: dict[str, tuple[Change, str, str, str]] = {
    "area null": (first(area=None), "note", "area-unusable", "annotation 10"),
    "area text": (first(area="48"), "note", "area-unusable", "annotation 10"),
    "area negative": (first(area=-48), "note", "area-unusable", "annotation 10"),
    "area 10^400": (first(area=BIG), "note", "area-unusable", "annotation 10"),
    "area unlike the mask": (first(area=4800), "warning", "area-differs", "annotation 10 says 4800, its mask has 48"),
    "crowd without mask": (first(iscrowd=1, segmentation=[]), "note", "crowd-no-mask", "annotation 10"),
    "is_crowd": (
        rename("iscrowd", "is_crowd"),
        "warning",
        "annotation-misspelt",
        "'is_crowd' where COCO has 'iscrowd'",
    ),
    "isCrowd": (rename("iscrowd", "isCrowd"), "warning", "annotation-misspelt", "'isCrowd' where COCO has 'iscrowd'"),
    "segments": (rename("segmentation", "segments"), "warning", "annotation-misspelt", "COCO has 'segmentation'"),
    "segmentations": (
        rename("segmentation", "segmentations"),
        "warning",
        "annotation-misspelt",
        "COCO has 'segmentation'",
    ),
    "bbox misspelt": (
        rename("bbox", "bounding_box"),
        "error",
        "annotation-keys",
        "annotation 10: key 'bbox' is missing",
    ),
    "iscrowd null": (first(iscrowd=None), "error", "annotation-crowd", "annotation 10: iscrowd None"),
    "iscrowd text": (first(iscrowd="0"), "error", "annotation-crowd", "annotation 10: iscrowd '0'"),
    "keypoints text": (first(keypoints="abc"), "error", "annotation-keypoints", "annotation 10: keypoints 'abc'"),
    "keypoints of text": (first(keypoints=["a", 1, 2]), "error", "annotation-keypoints", "annotation 10"),
    "keypoints of two": (first(keypoints=[1, 2]), "error", "annotation-keypoints", "annotation 10"),
    "keypoints 10^400": (first(keypoints=[BIG, 1, 2]), "error", "annotation-keypoints", "annotation 10"),
    "ignore": (first(ignore=1), "error", "annotation-ignore", "annotation 10"),
    "box 10^400": (first(bbox=[BIG, 1, 2, 3]), "error", "box", "annotation 10: bbox"),
    "box 1e300": (first(bbox=[1e300, 1, 2, 3]), "error", "box-absurd", "annotation 10: bbox"),
    "box 2^63": (first(bbox=[1, 1, 2**63, 3]), "error", "box-absurd", "annotation 10"),
    "box far outside": (first(bbox=[-500, 1, 2, 3]), "error", "box-absurd", "annotation 10"),
    "box without area": (first(bbox=[2, 2, 0, 6]), "warning", "box-no-area", "annotation 10"),
    "nothing to find": (first(bbox=[0, 0, 0, 0], segmentation=[]), "warning", "empty", "annotation 10"),
    "negative box, no mask": (first(bbox=[-1, -1, -1, -1], segmentation=[]), "warning", "empty", "annotation 10"),
    "fractions": (every(bbox=[0.1, 0.1, 0.5, 0.5]), "warning", "box-fractions", "3 of 3 boxes lie within one pixel"),
    "polygon 2^63": (first(segmentation=[[2, 2, 2**63, 2, 3, 9]]), "error", "polygon-absurd", "annotation 10"),
    "polygon 10^400": (first(segmentation=[[2, 2, BIG, 2, 3, 9]]), "error", "polygon-numbers", "annotation 10"),
    "polygon far outside": (first(segmentation=[[2, 2, 900, 2, 3, 9]]), "error", "polygon-absurd", "annotation 10"),
    "polygon of null": (first(segmentation=[[2, 2, None, 2, 3, 9]]), "error", "polygon-numbers", "annotation 10"),
    "polygon of truth values": (first(segmentation=[[True] * 6]), "error", "polygon-numbers", "annotation 10"),
    "polygon outside": (first(segmentation=[[20, 20, 25, 20, 25, 25]]), "warning", "polygon-outside", "annotation 10"),
    "polygon a line": (first(segmentation=[[1, 1, 5, 5, 3, 3]]), "warning", "polygon-no-area", "annotation 10"),
    "polygon a point": (first(segmentation=[[1, 1] * 4]), "warning", "polygon-no-area", "annotation 10"),
    "four numbers": (first(segmentation=[[2, 2, 8, 6]]), "error", "polygon-points", "annotation 10: a polygon has 4"),
    "four numbers everywhere": (every(segmentation=[[2, 2, 8, 6]]), "error", "polygon-points", "(and 2 more: 11, 12)"),
    "one without mask": (
        first(segmentation=[]),
        "note",
        "mask-missing",
        "1 of 3 annotations have no segmentation: anno",
    ),
    "mask null": (first(segmentation=None), "note", "mask-missing", "annotation 10"),
    "mask false": (first(segmentation=False), "error", "mask-kind", "annotation 10"),
    "RLE size text": (first(segmentation={"size": "x", "counts": [192]}), "error", "rle", "annotation 10: RLE size"),
    "RLE negative": (first(segmentation={"size": [12, 16], "counts": [193, -1]}), "error", "rle", "annotation 10"),
    "RLE 10^400": (first(segmentation={"size": [12, 16], "counts": [BIG]}), "error", "rle", "annotation 10"),
    "RLE not ASCII": (first(segmentation={"size": [12, 16], "counts": "\u00e9"}), "error", "rle", "annotation 10"),
    "RLE null": (first(segmentation={"size": [12, 16], "counts": None}), "error", "rle", "annotation 10"),
    "image id text": (
        lambda data: (
            [image.update(id=str(image["id"])) for image in data["images"]]
            + [entry.update(image_id="1") for entry in data["annotations"]]
        ),
        "warning",
        "image-id-inexact",
        "2 image ids are texts",
    ),
    "image id beyond 2^53": (image(id=2**53 + 1), "warning", "image-id-inexact", str(2**53 + 1)),
    "image id beyond 2^63": (image(id=2**63), "error", "image", "images[1]: id 9223372036854775808"),
    "width 10^400": (image(width=BIG), "error", "image", "image 2 ('b.png'): width"),
    "width true": (image(width=True), "error", "image", "image 2 ('b.png'): width True"),
    "annotation id 2^63": (first(id=2**63), "error", "annotation-id", "id 9223372036854775808"),
    "annotation id 10^400": (first(id=BIG), "error", "annotation-id", "an integer of 1329 bits"),
    "image id a fraction": (first(image_id=1.5), "error", "annotation-image", "annotation 10: image_id 1.5"),
    "image id 10^400": (first(image_id=BIG), "error", "annotation-image", "annotation 10"),
    "category id null": (first(category_id=None), "error", "annotation-category", "annotation 10: category_id None"),
    "category id 10^400": (first(category_id=BIG), "error", "annotation-category", "annotation 10"),
    "annotation a list": (more([]), "error", "annotation-keys", "annotations[3]: is a list"),  # type: ignore[arg-type]
    "same file twice": (image(file_name="a.png"), "warning", "image-file-twice", "image 2 is the same file as image 1"),
    "same file twice, spelt otherwise": (image(file_name="./a.png"), "warning", "image-file-twice", "image 2"),
    "crowd-only image": (more(annotation(13, image_id=2, iscrowd=1)), "note", "image-crowd-only", "1 of 2 images"),
}


def findings(write: Callable[..., Path], folder: Path, data: Any) -> list[Finding]:
    return check_dataset(write(data), folder / "images")


@pytest.mark.parametrize(("change", "severity", "kind", "says"), ODD.values(), ids=ODD.keys())
def test_oddity_is_one_finding_that_names_its_culprit(
    folder: Path, write: Callable[..., Path], change: Change, severity: str, kind: str, says: str
) -> None:
    data = sound()
    change(data)
    found = [finding for finding in findings(write, folder, data) if finding.kind == kind]
    assert len(found) == 1, found
    assert found[0].severity == severity
    assert says in found[0].text
    assert str(found[0]).isprintable()
    if severity == "error":
        with pytest.raises(InputError):
            check_coco_json(folder / "set.json", folder / "images")
    else:
        check_coco_json(folder / "set.json", folder / "images")


def test_sound_data_have_no_errors_and_no_warnings(folder: Path, write: Callable[..., Path]) -> None:
    assert {finding.severity for finding in findings(write, folder, sound())} == {"note"}


def test_finding_has_the_ids_of_the_first_culprit(folder: Path, write: Callable[..., Path]) -> None:
    data = sound()
    every(segmentation=[[2, 2, 8, 6]])(data)
    (finding,) = (found for found in findings(write, folder, data) if found.severity == "error")
    assert (finding.annotation_id, finding.image_id, finding.count) == (10, None, 3)
    assert finding.file == str(folder / "set.json")
    assert "--fix" in finding.remedy


@pytest.mark.parametrize("value", [None, False, 0, "", []])
def test_an_empty_ignore_is_none(folder: Path, write: Callable[..., Path], value: Any) -> None:
    data = sound()
    first(ignore=value)(data)
    assert check_coco_json(write(data), folder / "images").instance_counts == (2, 1, 0)


def test_ids_as_tables_write_them_are_whole_numbers(folder: Path, write: Callable[..., Path]) -> None:
    data = sound()
    first(image_id=1.0, category_id=7.0)(data)
    assert check_coco_json(write(data), folder / "images").instance_counts == (2, 1, 0)


def test_integers_of_thousands_of_digits_are_refused_in_one_line(folder: Path) -> None:
    (folder / "set.json").write_text(json.dumps(sound()).replace('"id": 2,', f'"id": {"9" * 5000},'))
    with pytest.raises(InputError, match="an integer of more than 4300 digits"):
        check_coco_json(folder / "set.json", folder / "images")


def test_the_fullest_image_is_counted(folder: Path, write: Callable[..., Path]) -> None:
    data = sound()
    data["annotations"] = [annotation(i, image_id=2) for i in range(1, 241)] + [annotation(999)]
    summary = check_coco_json(write(data), folder / "images")
    assert (summary.fullest, summary.fullest_image) == (240, "b.png")
    assert any(finding.kind == "image-full" for finding in check_dataset(folder / "set.json", folder / "images"))


ROOTS = {
    "root first": [{"id": 0, "name": "fig", "supercategory": "none"}, {"id": 7, "name": "fig", "supercategory": "fig"}],
    "root last": [{"id": 7, "name": "fig", "supercategory": "fig"}, {"id": 90, "name": "fig", "supercategory": "none"}],
}


@pytest.mark.parametrize("categories", ROOTS.values(), ids=ROOTS.keys())
@pytest.mark.parametrize("used", [True, False])
def test_unused_root_category_of_the_same_name_is_dropped_and_said(
    folder: Path, write: Callable[..., Path], categories: list[dict[str, Any]], used: bool
) -> None:
    """As Roboflow exports it; in a JSON without objects of that class, such as one of evaluation, too."""
    data = {**sound(), "categories": [*categories, {"id": 3, "name": "date", "supercategory": "fig"}]}
    if not used:
        first(category_id=3)(data)
    path = write(data)
    summary = check_coco_json(path, folder / "images")
    assert summary.class_names == ("date", "fig")
    assert summary.category_ids == (3, 7)
    assert any("has the name of another one and no annotation: dropped" in note for note in summary.notes)
    full_json = Path(completed_copy(path))
    assert [c["id"] for c in json.loads(full_json.read_text())["categories"]] == [7, 3]


# Evaluation


def perfect_ap(path: str | Path, kind: str) -> float:
    """AP of answers that are the objects themselves, as pycocotools counts it."""
    import pycocotools.coco as coco_module
    import pycocotools.cocoeval as evaluation

    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco_module.COCO(str(path))
        answers = []
        for entry in truth.dataset["annotations"]:
            if entry["iscrowd"] or min(entry["bbox"][2:]) <= 0:
                continue
            answer = {key: entry[key] for key in ("image_id", "category_id")} | {"score": 0.9}
            what = {"bbox": entry["bbox"]} if kind == "bbox" else {"segmentation": truth.annToRLE(entry)}
            answers.append(answer | what)
        evaluator = evaluation.COCOeval(truth, truth.loadRes(answers), kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return float(100 * evaluator.stats[0])


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize(
    "change",
    [
        first(area=None),
        first(area="48"),
        first(area=-48),
        first(area=1e11),
        first(area=BIG),
        without("area"),
        without("iscrowd"),
        first(id=0),
        lambda data: data.pop("info"),
        first(iscrowd=1, segmentation=[]),
        more(annotation(13, image_id=2, bbox=[0, 0, 0, 0], segmentation=[])),
        more(annotation(13, image_id=2, bbox=[-1, -1, -1, -1], segmentation=None, area=None)),
        lambda data: data["categories"].insert(0, {"id": 1, "name": "fig"}),
    ],
)
def test_perfect_answers_get_100_whatever_is_filled_in(
    folder: Path, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, change: Change, kind: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    data = sound()
    change(data)
    path = write(data)
    assert check_coco_json(path, folder / "images").gaps
    assert perfect_ap(completed_copy(path), kind) == pytest.approx(100)


def test_boxes_without_area_are_offered_to_be_mended_and_perfect_answers_then_get_100(
    folder: Path, write: Callable[..., Path]
) -> None:
    data = sound()
    first(bbox=[2, 2, 0, 6])(data)
    path = write(data)
    assert perfect_ap(path, "bbox") < 99
    assert any(
        finding.kind == "box-no-area" and "missed" not in finding.text and "--fix" in finding.remedy
        for finding in check_dataset(path, folder / "images")
    )
    repair_coco_json(path, folder / "images", folder / "fixed.json")
    assert perfect_ap(folder / "fixed.json", "bbox") == pytest.approx(100)
    assert json.loads((folder / "fixed.json").read_text())["annotations"][0]["bbox"] == [2, 2, 8, 6]


# RLE


def test_rle_text_is_read_as_pycocotools_reads_it() -> None:
    import pycocotools.mask as masks

    rng = np.random.default_rng(0)
    for density in (0.0, 0.01, 0.5, 1.0):
        mask = (rng.random((37, 53)) < density).astype("uint8")
        encoded = masks.encode(np.asfortranarray(mask))
        runs = run_lengths(encoded["counts"].decode())
        assert runs is not None
        assert (runs.sum(), rle_area(runs)) == (37 * 53, mask.sum())
        assert masks.frPyObjects({"size": [37, 53], "counts": runs.tolist()}, 37, 53) == encoded


@pytest.mark.parametrize("text", ["o" * 400_000, "0o" * 200_000, "1" * 400_000, "O" * 400_000])
def test_rle_text_takes_time_in_proportion_to_its_length(text: str) -> None:
    start = time.process_time()
    run_lengths(text)
    assert time.process_time() - start < 5  # no measurement: it was 24 s when it grew with the square


# The completed copy


def test_completed_copy_is_in_a_private_folder_by_its_content(
    folder: Path, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    data = sound()
    first(area=None)(data)
    path = write(data)
    check_coco_json(path, folder / "images")
    copy = Path(completed_copy(path))
    assert copy.parent.stat().st_mode & 0o077 == 0
    content = copy.read_bytes()
    copy.write_text("{}")  # planted, or cut off
    assert completed_copy(path) == str(copy)
    assert copy.read_bytes() == content
    victim = folder / "victim.json"
    victim.write_text("precious")
    copy.unlink()
    copy.symlink_to(victim)
    assert Path(completed_copy(path)).read_bytes() == content
    assert victim.read_text() == "precious"


def test_a_planted_link_in_the_place_of_the_folder_is_not_followed(
    folder: Path, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    (folder / "hiera_det").mkdir()
    (folder / "planted").mkdir()
    (folder / "hiera_det" / "coco").symlink_to(folder / "planted")
    data = sound()
    first(area=None)(data)
    path = write(data)
    check_coco_json(path, folder / "images")
    copy = Path(completed_copy(path))
    assert copy.is_file()
    assert not list((folder / "planted").iterdir())


def test_rle_and_size(folder: Path, write: Callable[..., Path]) -> None:
    """A mask as a list of counts and as a text have the same area."""
    data = sound()
    first(segmentation={"size": [HEIGHT, WIDTH], "counts": [20, 8, WIDTH * HEIGHT - 28]}, area=None)(data)
    path = write(data)
    assert check_coco_json(path, folder / "images").mask_format == "bitmask"
    full_json = Path(completed_copy(path))
    assert json.loads(full_json.read_text())["annotations"][0]["area"] == 8
