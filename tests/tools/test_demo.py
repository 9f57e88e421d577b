"""tools/demo.py as a user runs it: pictures and a JSON of what was found, and no harm done."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from media import write_video
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

TOOL = Path(__file__).parents[2] / "tools" / "demo.py"
CONFIG = TOOL.parents[1] / "configs" / "mask_rcnn_hiera_t_1x.yaml"
EVERY = ("--confidence-threshold", "0")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in (("a.jpg", (96, 64)), ("b.png", (64, 96)), ("c.jpg", (96, 64))):
        Image.new("RGB", size, "teal").save(folder / name)
    return folder


def test_pictures_and_results_of_a_folder(photos: Path, tmp_path: Path, run_folder: Path, run_here: Any) -> None:
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    out, found = tmp_path / "out", tmp_path / "new" / "found.json"
    batches = ("--opts", "TEST.IMS_PER_BATCH", "2")
    done = run_here(TOOL, "--run", run_folder, "--input", photos, "--output", out, "--json", found, *EVERY, *batches)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [str(out), str(found)]
    assert "3 images" in done.stdout
    assert "3/3" in done.stderr  # the progress
    assert {path.name: Image.open(path).size for path in out.iterdir()} == {
        "a.jpg": (96, 64),
        "b.jpg": (64, 96),
        "c.jpg": (96, 64),
    }
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before
    results = json.loads(found.read_text())
    assert [result["image_id"] for result in results] == sorted(result["image_id"] for result in results)
    assert {(result["image_id"], Path(result["file_name"]).name) for result in results} == {
        (1, "a.jpg"),
        (2, "b.png"),
        (3, "c.jpg"),
    }
    assert {(result["category_id"], result["category_name"]) for result in results} <= {(7, "fig"), (42, "date")}


def test_folders_below_are_told_of_and_taken_with_recursive(
    photos: Path, tmp_path: Path, run_folder: Path, run_here: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (photos / "deeper").mkdir()
    (photos / "deeper" / "d.avif").write_bytes(b"")
    shutil.copy(photos / "a.jpg", photos / "deeper" / "d.jpg")
    run = ("--run", run_folder, "--input", photos, "--json", tmp_path / "found.json", "--overwrite")
    done = run_here(TOOL, *run)
    assert "3 images" in done.stdout, done.stderr
    assert f"{photos}: passed over: 1 folder (--recursive goes into folders)" in caplog.messages
    caplog.clear()
    done = run_here(TOOL, *run, "--recursive")
    assert "4 images" in done.stdout, done.stderr
    assert f"{photos}: passed over: 1 .avif" in caplog.messages


def test_the_results_are_what_pycocotools_reads(photos: Path, tmp_path: Path, run_folder: Path, run_here: Any) -> None:
    found = tmp_path / "found.json"
    done = run_here(TOOL, "--run", run_folder, "--input", photos / "a.jpg", "--json", found, *EVERY)
    assert done.returncode == 0, done.stderr
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": 1, "height": 64, "width": 96}],
        "categories": [{"id": 7, "name": "fig"}, {"id": 42, "name": "date"}],
        "annotations": [],
    }
    truth.createIndex()
    read = truth.loadRes(json.loads(found.read_text()))
    assert len(read.anns) > 0
    assert all(read.annToMask(result).shape == (64, 96) for result in read.anns.values())


def test_a_broken_image_costs_one_line_and_the_exit_status(
    photos: Path, tmp_path: Path, run_folder: Path, run_here: Any
) -> None:
    (photos / "broken.jpg").write_bytes((photos / "a.jpg").read_bytes()[:200])
    (photos / "empty.png").write_bytes(b"")
    done = run_here(TOOL, "--run", run_folder, "--input", photos, "--output", tmp_path / "out", *EVERY)
    assert done.returncode == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.jpg", "b.jpg", "c.jpg"}
    warnings = [line for line in done.stderr.splitlines() if "warning: " in line]
    assert len(warnings) == 2
    for name in ("broken.jpg", "empty.png"):
        assert sum(f"{name}: cannot be read as an image" in line for line in warnings) == 1


def test_a_second_run_replaces_pictures_only_if_told_to(
    photos: Path, tmp_path: Path, run_folder: Path, run_here: Any
) -> None:
    words = (TOOL, "--run", run_folder, "--input", photos / "a.jpg", "--json", tmp_path / "found.json")
    assert run_here(*words).returncode == 0
    (tmp_path / "found.json").write_text("mine")
    again = run_here(*words)
    assert again.returncode == 2
    assert "found.json: is there already; name another file, or use --overwrite" in again.stderr
    assert (tmp_path / "found.json").read_text() == "mine"
    assert run_here(*words, "--overwrite").returncode == 0
    assert isinstance(json.loads((tmp_path / "found.json").read_text()), list)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--run", "RUN", "--input", "PHOTOS"], "give --output DIR for pictures, --json FILE, --csv FILE or another"),
        (["--run", "RUN", "--input", "PHOTOS", "--output", "PHOTOS"], "a.jpg is in this folder and could be"),
        (
            ["--run", "RUN", "--input", "PHOTOS", "--json", "PHOTOS/a.jpg", "--overwrite"],
            "is read or written otherwise, or is a folder",
        ),
        (
            ["--run", "RUN", "--input", "PHOTOS", "--json", "OUT.json", "--csv", "OUT.json"],
            "OUT.json: is read or written",
        ),
        (["--run", "RUN", "--input", "PHOTOS/none", "--output", "OUT"], "there are no images in this folder"),
        (["--run", "RUN", "--input", "PHOTOS/*.tif", "--output", "OUT"], "*.tif: no image matches this pattern"),
        (
            ["--run", "PHOTOS", "--input", "PHOTOS", "--output", "OUT"],
            "there is neither model_best.pth nor model_final.pth",
        ),
        (
            ["--config-file", "CONFIG", "--input", "PHOTOS", "--output", "OUT", "--opts", "MODEL.WEIGHTS", ""],
            "is empty",
        ),
        (["--config-file", "no.yaml", "--input", "PHOTOS", "--output", "OUT"], "no.yaml: no such file"),
        (["--run", "RUN", "--input", "PHOTOS", "--output", "PHOTOS/a.jpg/out"], "cannot be written"),
        (["--run", "RUN", "--input", "PHOTOS", "--output", "OUT", "--confidence-threshold", "50"], "from 0 to 1"),
    ],
)
def test_mistakes_end_in_one_line(
    words: list[str], says: str, photos: Path, tmp_path: Path, run_folder: Path, run_here: Any
) -> None:
    (photos / "none").mkdir()
    before = {path: path.read_bytes() for path in photos.iterdir() if path.is_file()}
    places = {"RUN": run_folder, "PHOTOS": photos, "OUT": tmp_path / "out", "CONFIG": CONFIG}
    filled = []
    for word in words:
        first, slash, rest = word.partition("/")
        filled.append(f"{places.get(first, first)}{slash}{rest}")
    done = run_here(TOOL, *filled)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert says in line
    assert "Traceback" not in done.stderr
    assert {path: path.read_bytes() for path in photos.iterdir() if path.is_file()} == before


def statuses(found: Path) -> dict[str, Any]:
    """``objects`` or ``error`` of each image, by its name, from the JSON beside the results."""
    images = json.loads(found.with_suffix(".images.json").read_text())["images"]
    return {Path(image["file_name"]).name: image.get("error", image.get("objects")) for image in images}


def test_the_json_beside_the_results_tells_nothing_found_from_not_read(
    photos: Path, tmp_path: Path, run_folder: Path, run_here: Any
) -> None:
    (photos / "broken.jpg").write_bytes((photos / "a.jpg").read_bytes()[:200])
    found = tmp_path / "found.json"
    words = (TOOL, "--run", run_folder, "--input", photos, "--json", found, "--confidence-threshold")
    assert run_here(*words, "1").returncode == 1
    assert json.loads(found.read_text()) == []
    told = statuses(found)
    assert (told["a.jpg"], told["b.png"], told["c.jpg"]) == (0, 0, 0)
    assert "cannot be read as an image (" in told["broken.jpg"]
    assert run_here(*words, "0", "--overwrite").returncode == 1
    with contextlib.redirect_stdout(io.StringIO()):
        read = COCO(str(found.with_suffix(".images.json"))).loadRes(str(found))
    assert len(read.anns) == sum(n for n in statuses(found).values() if isinstance(n, int)) > 0
    assert [category["name"] for category in read.cats.values()] == ["fig", "date"]


@pytest.mark.parametrize("batch", ["1", "2"])
def test_slivers_deep_and_transparent_images_do_not_end_the_run(
    tmp_path: Path, run_folder: Path, run_here: Any, batch: str
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    rng = np.random.default_rng(0)
    shapes = {"a": (60, 90), "long": (2, 3000), "line": (1, 5000), "tall": (5000, 1), "dot": (1, 1), "two": (3, 2)}
    for name, shape in shapes.items():
        Image.fromarray(rng.integers(0, 255, (*shape, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    grey = rng.integers(0, 255, (60, 90), dtype=np.uint8)
    Image.fromarray(grey).save(folder / "grey8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "grey16.png")
    Image.fromarray(np.dstack([grey] * 4)).save(folder / "alpha.png")
    found = tmp_path / "found.json"
    words = ("--run", run_folder, "--input", folder, "--output", tmp_path / "out", "--json", found, *EVERY)
    done = run_here(TOOL, *words, "--opts", "TEST.IMS_PER_BATCH", batch)
    assert done.returncode == 0, done.stderr
    assert {path.stem: Image.open(path).size[::-1] for path in (tmp_path / "out").iterdir()} == {
        **shapes,
        **dict.fromkeys(("grey8", "grey16", "alpha"), (60, 90)),
    }
    results = json.loads(found.read_text())
    deep, plain = (
        [
            {key: entry[key] for key in ("bbox", "score", "category_id")}
            for entry in results
            if name in entry["file_name"]
        ]
        for name in ("grey16", "grey8")
    )
    assert deep == plain
    assert deep
    assert "1 of 9 images have an alpha channel: laid on white" in done.stderr


def test_ids_are_those_of_the_images_json_by_name(
    photos: Path, tmp_path: Path, run_folder: Path, run_here: Any
) -> None:
    images = [{"id": 50, "file_name": "photos/b.png", "width": 64, "height": 96}]
    images += [{"id": 7, "file_name": "a.jpg", "width": 96, "height": 64}, {"id": 3, "file_name": "c.jpg"}]
    categories = [{"id": 5, "name": "date"}, {"id": 9, "name": "fig"}]
    truth = tmp_path / "val.json"
    truth.write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    words = (TOOL, "--run", run_folder, "--input", photos, *EVERY, "--images-json", truth, "--json")
    done = run_here(*words, tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "found.json").read_text())
    names = {(result["image_id"], Path(result["file_name"]).name) for result in results}
    assert names == {(50, "b.png"), (7, "a.jpg"), (3, "c.jpg")}
    assert {(result["category_id"], result["category_name"]) for result in results} <= {(5, "date"), (9, "fig")}
    truth.write_text(json.dumps({"images": images[:1], "annotations": [], "categories": categories}))
    done = run_here(*words, tmp_path / "other.json")
    assert done.returncode == 2
    assert "a.jpg: is none of the images of" in done.stderr
    truth.write_text(json.dumps({"images": images, "annotations": [], "categories": [{"id": 1, "name": "bus"}]}))
    done = run_here(*words, tmp_path / "other.json")
    assert done.returncode == 2
    assert "its classes are not those of the detector" in done.stderr


def test_frames_of_a_video_are_predicted(tmp_path: Path, run_folder: Path, run_here: Any) -> None:
    clip = write_video(tmp_path / "clip.mp4", 7)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    found = tmp_path / "found.json"
    words = (TOOL, "--run", run_folder, "--input", tmp_path / "broken.mp4", clip, *EVERY, "--every", "3")
    done = run_here(*words, "--output", tmp_path / "out", "--json", found)
    assert done.returncode == 1
    assert "broken.mp4: cannot be read as a video" in done.stderr
    assert sorted(path.name for path in (tmp_path / "out" / "clip").iterdir()) == [
        "000000.jpg",
        "000003.jpg",
        "000006.jpg",
    ]
    results = json.loads(found.read_text())
    assert {(result["image_id"], result["frame"]) for result in results} == {(3, 0), (4, 3), (5, 6)}
    again = run_here(*words, "--output", tmp_path / "out")
    assert again.returncode == 2
    assert "clip: is there already" in again.stderr


def test_a_video_becomes_a_video(tmp_path: Path, run_folder: Path, run_here: Any) -> None:
    def odd(number: int) -> Any:
        return np.full((46, 64, 3), 10 * number, dtype=np.uint8)

    clip = write_video(tmp_path / "clip.mp4", 9, odd, fps=25)
    words = (TOOL, "--run", run_folder, "--input", clip, *EVERY, "--every", "2", "--frames", "3", "--save-video")
    done = run_here(*words, "--output", tmp_path / "out", "--csv", tmp_path / "found.csv")
    assert done.returncode == 0, done.stderr
    assert "3 images" in done.stdout
    with av.open(str(tmp_path / "out" / "clip.mp4")) as video:
        frames = list(video.decode(video=0))
    assert [round(float(frame.time), 3) for frame in frames] == [0, 0.08, 0.16]
    assert (frames[0].width, frames[0].height) == (64, 46)
    with open(tmp_path / "found.csv", newline="") as file:
        assert {row["frame"] for row in csv.DictReader(file)} == {"0", "2", "4"}
    again = run_here(*words, "--output", tmp_path / "out")
    assert again.returncode == 2
    assert "clip.mp4: is there already" in again.stderr
    none = run_here(*words[:3], "--input", tmp_path / "out", "--csv", tmp_path / "b.csv", "--save-video")
    assert none.returncode == 2
    assert "--save-video: give a video as --input, and --output DIR for it" in none.stderr


def test_a_camera_is_predicted_until_its_frames_are_enough_or_a_signal_comes(
    tmp_path: Path, run_folder: Path, run_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_video(tmp_path / "clip.mp4", 5)
    # OpenCV opens files as it opens cameras.
    monkeypatch.setattr("hiera_det.data.camera.camera_number", lambda name: str(clip) if name == "webcam:0" else None)
    words = (TOOL, "--run", run_folder, "--input", "webcam:0", *EVERY, "--output", tmp_path / "out")
    done = run_here(*words, "--frames", "2", "--crops", tmp_path / "crops")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out" / "webcam_0").iterdir()) == ["000000.jpg", "000001.jpg"]
    assert next((tmp_path / "crops").rglob("webcam_0_000001_*.jpg"))
    done = run_here(*words, "--overwrite", "--save-video", "--json", tmp_path / "found.json")
    assert done.returncode == 1
    assert "webcam:0: gives no more pictures; give another number, left out" in done.stderr
    with av.open(str(tmp_path / "out" / "webcam_0.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 5


def test_no_camera_is_one_line(tmp_path: Path, run_folder: Path, run_here: Any) -> None:
    done = run_here(TOOL, "--run", run_folder, "--input", "webcam:99", "--output", tmp_path / "out")
    assert done.returncode == 1
    assert "webcam:99: no such camera here; give another number" in done.stderr


def test_table_crops_and_masks_hold_what_the_results_hold(
    photos: Path, tmp_path: Path, run_folder: Path, run_here: Any
) -> None:
    Image.effect_noise((96, 64), 80).convert("RGB").save(photos / "a.jpg")
    found, crops, masks = tmp_path / "found.json", tmp_path / "crops", tmp_path / "masks"
    words = (TOOL, "--run", run_folder, "--input", photos / "a.jpg", photos / "b.png", *EVERY)
    places = ("--json", found, "--csv", tmp_path / "found.csv", "--crops", crops, "--save-masks", masks)
    done = run_here(*words, *places)
    assert done.returncode == 0, done.stderr
    rows = json.loads(found.read_text())
    with open(tmp_path / "found.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["class_name"] for row in table] == [row["category_name"] for row in rows]
    assert [int(row["class_id"]) for row in table] == [row["category_id"] for row in rows]
    boxes = [[float(row[key]) for key in ("x", "y", "width", "height")] for row in table]
    np.testing.assert_allclose(boxes, [row["bbox"] for row in rows], atol=0.01)
    of_a = [row for row in rows if row["file_name"].endswith("a.jpg")]
    for number, row in enumerate(of_a):
        mask = np.asarray(Image.open(masks / row["category_name"] / f"a_{number}.png"))
        np.testing.assert_array_equal(mask > 0, coco_mask.decode(row["segmentation"]) > 0)
        assert float(table[number]["area"]) == (mask > 0).sum()
        width, height = row["bbox"][2:]
        crop = Image.open(crops / row["category_name"] / f"a_{number}.jpg")
        assert abs(crop.width - width) <= 2
        assert abs(crop.height - height) <= 2
    again = run_here(*words, "--crops", crops)
    assert again.returncode == 2
    assert f"--crops {crops}: holds something; name another folder, or use --overwrite" in again.stderr
    inside = run_here(*words, "--crops", photos, "--overwrite")
    assert inside.returncode == 2
    assert "a.jpg lies in it; name another folder" in inside.stderr


def test_a_class_has_a_threshold_of_its_own(photos: Path, tmp_path: Path, run_folder: Path, run_here: Any) -> None:
    found = tmp_path / "found.json"
    words = (TOOL, "--run", run_folder, "--input", photos / "a.jpg", "--json", found, "--overwrite", *EVERY)
    assert run_here(*words).returncode == 0
    every = {(row["category_name"], row["score"]) for row in json.loads(found.read_text())}
    least = sorted(score for name, score in every if name == "fig")[-2] - 1e-6
    done = run_here(*words, "--class-threshold", "fig", least)
    assert done.returncode == 0, done.stderr
    assert "other scores for fig" in done.stdout
    kept = {(row["category_name"], row["score"]) for row in json.loads(found.read_text())}
    assert kept == {(name, score) for name, score in every if name != "fig" or score >= least} != every
    (tmp_path / "by_class.json").write_text(json.dumps({"by_class": {"fig": 1, "date": 1}}))
    assert run_here(*words, "--thresholds-json", tmp_path / "by_class.json").returncode == 0
    assert json.loads(found.read_text()) == []
    wrong = run_here(*words, "--class-threshold", "dat", "0.5")
    assert wrong.returncode == 2
    assert "threshold of class 'dat': there is no such class; did you mean 'date'?" in wrong.stderr


def test_without_pyav_a_video_is_one_true_line(
    tmp_path: Path, run_folder: Path, run_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "av" else find_spec(name, *rest)
    )
    (tmp_path / "clip.mp4").write_bytes(b"any")
    done = run_here(TOOL, "--run", run_folder, "--input", tmp_path / "clip.mp4", "--output", tmp_path / "out")
    assert done.returncode == 2
    assert "reading videos needs av: pip install av" in done.stderr


def test_what_was_found_before_the_end_is_written(
    photos: Path, tmp_path: Path, run_folder: Path, run_here: Any
) -> None:
    Image.effect_noise((64, 96), 50).save(photos / "b.png")
    (photos / "b.png").write_bytes((photos / "b.png").read_bytes()[:2000])  # its header is whole
    found = tmp_path / "found.json"
    done = run_here(TOOL, "--run", run_folder, "--input", photos, "--json", found, *EVERY, "--on-bad-image", "fail")
    assert done.returncode == 2
    assert "b.png: cannot be read as an image" in done.stderr
    assert {Path(result["file_name"]).name for result in json.loads(found.read_text())} == {"a.jpg"}


def test_a_picture_that_cannot_be_drawn_costs_a_line(
    photos: Path, tmp_path: Path, run_folder: Path, run_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hiera_det.d2.predict.predictor import Predictor

    draw = Predictor.draw

    def fails_once(self: Predictor, prediction: Any) -> Any:
        if prediction.file.endswith("b.png"):
            raise ValueError("no colour left")
        return draw(self, prediction)

    monkeypatch.setattr(Predictor, "draw", fails_once)
    found = tmp_path / "found.json"
    words = (TOOL, "--run", run_folder, "--input", photos, "--json", found, "--output", tmp_path / "out", *EVERY)
    done = run_here(*words)
    assert done.returncode == 1
    assert "b.png: its picture cannot be drawn (no colour left)" in done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.jpg", "c.jpg"}
    assert {Path(result["file_name"]).name for result in json.loads(found.read_text())} == {"a.jpg", "b.png", "c.jpg"}


def test_what_was_found_before_a_signal_is_written(
    photos: Path, tmp_path: Path, run_folder: Path, run_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hiera_det.d2.predict.predictor import Predictor

    results = Predictor.coco_results

    def stopped_at_b(self: Predictor, prediction: Any, image_id: int) -> Any:
        if prediction.file.endswith("b.png"):
            signal.raise_signal(signal.SIGTERM)
        return results(self, prediction, image_id)

    monkeypatch.setattr(Predictor, "coco_results", stopped_at_b)
    found = tmp_path / "found.json"
    before = signal.getsignal(signal.SIGTERM)
    try:
        done = run_here(TOOL, "--run", run_folder, "--input", photos, "--json", found, *EVERY)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done.returncode == 143
    assert {Path(result["file_name"]).name for result in json.loads(found.read_text())} == {"a.jpg"}
    assert "Traceback" not in done.stderr
