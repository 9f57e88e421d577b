"""tools/demo.py as a user runs it: pictures and a JSON of what was found, and no harm done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
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
        (["--run", "RUN", "--input", "PHOTOS"], "give --output DIR for pictures, --json FILE, or both"),
        (["--run", "RUN", "--input", "PHOTOS", "--output", "PHOTOS"], "a.jpg is in this folder and could be"),
        (["--run", "RUN", "--input", "PHOTOS", "--json", "PHOTOS/a.jpg", "--overwrite"], "is an image or a folder"),
        (["--run", "RUN", "--input", "PHOTOS/none", "--output", "OUT"], "there are no images in this folder"),
        (["--run", "RUN", "--input", "PHOTOS/*.tif", "--output", "OUT"], "*.tif: no image matches this pattern"),
        (["--run", "PHOTOS", "--input", "PHOTOS", "--output", "OUT"], "there is no config.yaml"),
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
