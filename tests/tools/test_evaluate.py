"""Scores of results files: ours, another tool's, and what is refused of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hiera_det.d2.predict.scoring import score_results
from hiera_det.errors import InputError

TOOL = Path(__file__).parents[2] / "tools" / "evaluate.py"
CATEGORIES = [{"id": 3, "name": "fig"}, {"id": 7, "name": "date"}]
BOXES = [[10, 10, 30, 20], [50, 40, 20, 20], [5, 60, 40, 30]]


def polygon(box: list[int]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Two images with three objects, as ``val.json``."""
    images = [
        {"id": 30 + i, "file_name": f"photos/{name}.jpg", "width": 100, "height": 100} for i, name in enumerate("ab")
    ]
    annotations = [
        {"id": i + 1, "image_id": 30 + i % 2, "category_id": (3, 7, 3)[i], "bbox": box, "area": box[2] * box[3]}
        | {"iscrowd": 0, "segmentation": [polygon(box)]}
        for i, box in enumerate(BOXES)
    ]
    data = {"images": images, "annotations": annotations, "categories": CATEGORIES, "info": {}}
    path = tmp_path / "val.json"
    path.write_text(json.dumps(data))
    return path


def perfect(**changes: Any) -> list[dict[str, Any]]:
    """The perfect answer, some of its keys changed: a function of the index, or None to leave them out."""
    entries = [
        {"image_id": 30 + i % 2, "category_id": (3, 7, 3)[i], "bbox": box, "score": 0.9, "segmentation": [polygon(box)]}
        for i, box in enumerate(BOXES)
    ]
    for index, entry in enumerate(entries):
        for key, change in changes.items():
            entry.pop(key, None)
            if change is not None:
                entry[key] = change(index)
    return entries


def scores(truth: Path, results: Any, **options: Any) -> dict[str, dict[str, float]]:
    path = truth.with_name("results.json")
    path.write_text(json.dumps(results))
    return score_results(str(path), str(truth), **options)


def runs(box: list[int]) -> dict[str, Any]:
    x, y, width, height = box
    counts = [100 * x + y]
    for _ in range(width):
        counts += [height, 100 - height]
    counts[-1] = 100 * 100 - sum(counts[:-1])
    return {"size": [100, 100], "counts": counts}


FORMS = {
    "COCO's": perfect(),
    "uncompressed masks": perfect(segmentation=lambda i: runs(BOXES[i])),
    "ours, counted from 1": perfect(
        image_id=lambda i: 1 + i % 2,
        file_name=lambda i: f"/data/photos/{'ab'[i % 2]}.jpg",
        category_id=lambda i: 0,
        category_name=lambda i: ("fig", "date", "fig")[i],
    ),
    "named by the file": perfect(image_id=lambda i: "ab"[i % 2]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("coco_eval", ["pycocotools", "faster-coco-eval"])
def test_a_perfect_answer_in_any_form_is_100(truth: Path, form: str, coco_eval: str) -> None:
    found = scores(truth, FORMS[form], coco_eval=coco_eval)
    assert {task: values["AP"] for task, values in found.items()} == pytest.approx({"bbox": 100, "segm": 100})
    assert found["bbox"]["AP-date"] == pytest.approx(100)


@pytest.mark.parametrize("image_id", [123, "000123", "123"])
def test_a_number_stands_for_a_name_of_digits(truth: Path, image_id: Any) -> None:
    data = json.loads(truth.read_text())
    data["images"][0]["file_name"] = "photos/000123.jpg"
    truth.write_text(json.dumps(data))
    found = scores(truth, perfect(image_id=lambda i: image_id if i % 2 == 0 else "b"))
    assert found["bbox"]["AP"] == pytest.approx(100)


def test_boxes_or_masks_alone_are_scored_alone(truth: Path) -> None:
    assert set(scores(truth, perfect(segmentation=None))) == {"bbox"}
    assert scores(truth, perfect(bbox=None))["segm"]["AP"] == pytest.approx(100)
    assert set(scores(truth, perfect(bbox=None))) == {"segm"}
    data = json.loads(truth.read_text())
    for annotation in data["annotations"]:
        del annotation["segmentation"]
    truth.write_text(json.dumps(data))
    assert set(scores(truth, perfect())) == {"bbox"}


def test_a_wrong_class_and_no_results_score_less(truth: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert scores(truth, perfect(category_id=lambda i: 7))["bbox"]["AP"] < 60
    assert not caplog.messages or "may be the reason" not in caplog.text
    assert "nothing was found" not in caplog.text


@pytest.mark.parametrize("coco_eval", ["pycocotools", "faster-coco-eval"])
def test_no_results_score_0(truth: Path, caplog: pytest.LogCaptureFixture, coco_eval: str) -> None:
    found = scores(truth, [], coco_eval=coco_eval)["bbox"]
    assert {key: found[key] for key in ("AP", "AP50", "AP-fig", "AP-date")} == dict.fromkeys(
        ("AP", "AP50", "AP-fig", "AP-date"), 0
    )
    assert "AP is 0, or no number: nothing was found where 3 objects are annotated" in caplog.text


def test_more_than_100_objects_count_if_asked(tmp_path: Path) -> None:
    boxes = [[8 * (i % 30), 8 * (i // 30), 6, 6] for i in range(240)]
    image = {"id": 1, "file_name": "a.jpg", "width": 240, "height": 80}
    entries = [{"image_id": 1, "category_id": 3, "bbox": box, "score": 0.9} for box in boxes]
    annotations = [entry | {"id": i + 1, "area": 36, "iscrowd": 0} for i, entry in enumerate(entries)]
    path = tmp_path / "val.json"
    path.write_text(json.dumps({"images": [image], "annotations": annotations, "categories": CATEGORIES[:1]}))
    assert scores(path, entries, max_detections=300)["bbox"]["AP"] == pytest.approx(100)
    assert scores(path, entries)["bbox"]["AP"] == pytest.approx(41.6, abs=0.1)
    with pytest.raises(InputError, match="5 detections an image: COCO counts 100; give at least as many"):
        scores(path, entries, max_detections=5)


@pytest.mark.parametrize(
    ("results", "says"),
    [
        ({"annotations": []}, r"results\.json: must be a list of objects"),
        ([1], "must be a list of objects"),
        (perfect(image_id=lambda i: 7), r"results\.json\[0\]: image_id 7 is none of the 2 images"),
        (perfect(image_id=lambda i: [30]), r"image_id \[30\] is none"),
        (perfect(image_id=lambda i: True), "image_id True is none"),
        (perfect(file_name=lambda i: "c.jpg"), r"file_name 'c\.jpg' is none"),
        (perfect(category_id=lambda i: i), r"\[0\]: category_id 0 is none of .*\[3, 7\]; give the JSON's ids"),
        (perfect(category_name=lambda i: "plum"), r"class 'plum' is none of .*\['fig', 'date'\]"),
        (perfect(score=lambda i: "high"), r"\[0\]: score 'high' must be a number"),
        (perfect(score=None), r"\[0\]: score None must be a number"),
        (perfect(bbox=lambda i: [1, 2, 3]), r"\[0\]: bbox \[1, 2, 3\] must be"),
        (perfect(bbox=lambda i: [1, 2, -3, 4]), "must be"),
        (perfect(bbox=lambda i: [1, 2, float("nan"), 4]), "four finite numbers"),
        (perfect(bbox=lambda i: [1, 2, 10**400, 4]), "four finite numbers"),
        (perfect(bbox=None, segmentation=None), "has neither bbox nor segmentation"),
        (perfect()[:2] + perfect(segmentation=None)[:1], r"\[2\]: has no segmentation, and others have one"),
        (perfect(segmentation=lambda i: {"size": [9, 9], "counts": "aa"}), "must be an RLE of 100x100"),
        (perfect(segmentation=lambda i: {"size": [100, 100], "counts": [5]}), "must be an RLE of 100x100"),
        (perfect(segmentation=lambda i: [[1, 2]]), "or polygons"),
        (perfect(segmentation=lambda i: [[2**63] * 6]), "or polygons"),
    ],
)
def test_what_cannot_be_scored_is_one_line(truth: Path, results: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as refused:
        scores(truth, results)
    assert str(refused.value).isprintable()


def test_the_tool_prints_the_scores_and_writes_them(truth: Path, tmp_path: Path, run_here: Any) -> None:
    (tmp_path / "results.json").write_text(json.dumps(perfect()))
    out = tmp_path / "new" / "scores.json"
    done = run_here(TOOL, "--results", tmp_path / "results.json", "--val-json", truth, "--json", out)
    assert done.returncode == 0, done.stderr
    assert "bbox: AP 100.00, AP50 100.00" in done.stdout
    assert json.loads(out.read_text())["segm"]["AP"] == pytest.approx(100)
    (tmp_path / "results.json").write_text("[]")
    done = run_here(TOOL, "--results", tmp_path / "results.json", "--val-json", truth)
    assert done.returncode == 0, done.stderr
    assert "bbox: AP 0.00" in done.stdout
    (tmp_path / "results.json").write_text("no JSON")
    done = run_here(TOOL, "--results", tmp_path / "results.json", "--val-json", truth)
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1


def test_what_predict_writes_is_scored(truth: Path, tmp_path: Path, run_folder: Path, run_here: Any) -> None:
    (tmp_path / "photos").mkdir()
    for name in "ab":
        Image.effect_noise((100, 100), 60).save(tmp_path / "photos" / f"{name}.jpg")
    found = tmp_path / "found.json"
    words = ("--run", run_folder, "--input", tmp_path / "photos", "--json", found, "--confidence-threshold", "0")
    assert run_here(TOOL.with_name("demo.py"), *words).returncode == 0
    done = run_here(TOOL, "--results", found, "--val-json", truth)
    assert done.returncode == 0, done.stderr
    assert "segm: AP" in done.stdout
