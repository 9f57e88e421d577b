"""tools/draw_augmented.py as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

TOOL = Path(__file__).parents[2] / "tools" / "draw_augmented.py"
CONFIG = TOOL.parents[1] / "configs" / "mask_rcnn_hiera_t.yaml"
SMALL = ("INPUT.LSJ.SIZE", "64", "MODEL.HIERA.SQUARE_PAD", "64")


@pytest.fixture
def data(tmp_path: Path) -> tuple[Any, ...]:
    """Flags for one image with one object."""
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (90, 60), "teal").save(images / "a.png")
    annotation = {"id": 1, "image_id": 1, "category_id": 5, "bbox": [20, 10, 40, 30], "area": 1200, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 90, "height": 60}],
        "annotations": [annotation | {"segmentation": [[20, 10, 60, 10, 60, 40, 20, 40]]}],
        "categories": [{"id": 5, "name": "fig"}],
    }
    (tmp_path / "train.json").write_text(json.dumps(content))
    return ("--config-file", CONFIG, "--train-json", tmp_path / "train.json", "--train-images", images)


def test_a_sheet_is_drawn_and_its_path_printed_last(data: tuple[Any, ...], tmp_path: Path, run_here: Any) -> None:
    sheet = tmp_path / "out" / "sheet.png"
    done = run_here(TOOL, *data, "--output", sheet, "--count", "3", *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(sheet)
    assert Image.open(sheet).width > Image.open(sheet).height


def test_a_seed_gives_the_same_sheet_again(data: tuple[Any, ...], tmp_path: Path, run_here: Any) -> None:
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        words = ("--output", tmp_path / f"{name}.png", "--count", "2", *SMALL, "SEED", seed)
        assert run_here(TOOL, *data, *words).returncode == 0
    first, again, other = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert first == again != other


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--output", "OUT/sheet.jpg"], "the sheet is a PNG; name a .png file"),
        (["--output", "OUT/there.png"], "there.png: is there already"),
        (["--output", "OUT/sheet.png", "--count", "0"], "--count 0"),
        (["--output", "OUT/sheet.png", "INPUT.LSJ.SIZE", "50"], "INPUT.LSJ.SIZE 50"),
        (["--output", "OUT/sheet.png", "INPUT.LSJ.SZIE", "64"], "did you mean INPUT.LSJ.SIZE?"),
        (["--output", "OUT/there.png/sheet.png"], "cannot be written"),
    ],
)
def test_mistakes_end_in_one_line(
    words: list[str], says: str, data: tuple[Any, ...], tmp_path: Path, run_here: Any
) -> None:
    (tmp_path / "there.png").write_text("mine")
    done = run_here(TOOL, *data, *(word.replace("OUT", str(tmp_path)) for word in words))
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert says in line
    assert "Traceback" not in done.stderr
    assert (tmp_path / "there.png").read_text() == "mine"


def test_data_that_are_not_there_are_named(tmp_path: Path, run_here: Any) -> None:
    sheet = ("--output", tmp_path / "sheet.png")
    done = run_here(TOOL, "--config-file", CONFIG, *sheet, "DATASETS.TRAIN", "()")
    assert done.returncode == 2
    assert "nothing to draw" in done.stderr
    done = run_here(TOOL, "--config-file", CONFIG, *sheet, "DATASETS.TRAIN", "('nowhere_train',)")
    assert done.returncode == 2
    assert "'nowhere_train' is not registered" in done.stderr
