"""``hiera-det check``: what it prints, writes and mends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hiera_det import Finding, check_dataset
from hiera_det.cli.check import main
from hiera_det.errors import InputError

WIDTH, HEIGHT = 64, 48


def coco() -> dict[str, Any]:
    polygon = [[10, 10, 40, 10, 40, 30, 10, 30]]
    entry = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 30, 20], "area": 600, "iscrowd": 0}
    rle = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * 10, HEIGHT * 20, HEIGHT * (WIDTH - 30)]}
    return {
        "info": {},
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": WIDTH, "height": HEIGHT} for i in (1, 2, 3)],
        "annotations": [
            {**entry, "id": 1, "segmentation": polygon, "attributes": {"hidden": False}},
            {**entry, "id": 2, "segmentation": rle, "image_id": 2, "bbox": [10, 0, 20, HEIGHT], "area": 20 * HEIGHT},
        ],
        "categories": [{"id": 1, "name": "fig"}],
        "licenses": [{"id": 1}],
    }


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with train.json and images."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    for i in (1, 2):
        Image.new("RGB", (WIDTH, HEIGHT), (40 * i, 90, 60)).save(tmp_path / "images" / f"{i}.jpg")
    Image.effect_noise((WIDTH, HEIGHT), 60).save(tmp_path / "images" / "3.jpg")
    save(tmp_path, coco())
    return tmp_path


def save(folder: Path, content: Any, name: str = "train.json") -> str:
    (folder / name).write_text(json.dumps(content))
    return str(folder / name)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", ["hiera-det check", *map(str, arguments)])
    try:
        main()
    except SystemExit as error:
        return int(error.code or 0)
    return 0


def test_summary_for_people(data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, data / "train.json", data / "images") == 0
    out = capsys.readouterr().out
    assert "3 images (1 without annotations), 2 annotations, masks: bitmask, most objects in an image: 1" in out
    assert ["1", "0", "2", "fig"] in [line.split() for line in out.splitlines()]
    assert "1 note:" in out
    assert "no errors: ready to train" in out


def test_errors_end_in_status_2_and_are_all_said(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = coco()
    content["annotations"][0].update(bbox=[1, 2, 3])
    content["images"][1]["file_name"] = "2.png"
    assert run(monkeypatch, save(data, content), data / "images") == 2
    out = capsys.readouterr().out
    assert "2 errors:" in out
    assert "box: " in out
    assert "image-named-otherwise: " in out


def test_findings_as_json(data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path, images = save(data, {**coco(), "annotations": []}), data / "images"
    assert run(monkeypatch, path, images, "--json", "-") == 2
    printed = json.loads(capsys.readouterr().out)
    assert [found["kind"] for found in printed if found["severity"] == "error"] == ["no-annotations"]
    assert [Finding(**found) for found in printed] == check_dataset(path, images)
    run(monkeypatch, path, images, "--json", data / "found.json")
    assert json.loads((data / "found.json").read_text()) == printed


def test_fix_mends_and_keeps_everything_else(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = coco()
    content["annotations"][0]["is_crowd"] = content["annotations"][0].pop("iscrowd")
    content["annotations"][0]["area"] = None
    content["annotations"] += [
        {**content["annotations"][1], "id": 3, "bbox": [0, 0, 0, 0], "segmentation": []},
        {**content["annotations"][1], "id": 4, "image_id": 77},
    ]
    content["images"][0]["file_name"] = "photos\\1.JPG"
    path, fixed = save(data, content), data / "fixed.json"
    assert run(monkeypatch, path, data / "images", "--fix", fixed) == 2
    assert run(monkeypatch, fixed, data / "images") == 0
    assert json.loads(fixed.read_text()) == {
        **coco(),
        "annotations": [
            {**coco()["annotations"][0], "area": 600.0},
            coco()["annotations"][1],
        ],
    }
    assert not [found for found in check_dataset(fixed, data / "images") if found.severity != "note"]


def test_a_copy_never_takes_the_place_of_a_file(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for flag in ("--fix", "--pictures"):
        (data / "there.png").write_text("x")
        with pytest.raises(InputError, match=f"{flag} .*there.png: is there already"):
            run(monkeypatch, data / "train.json", data / "images", flag, data / "there.png")


def test_two_jsons_are_compared(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, images = data / "train.json", data / "images"
    assert run(monkeypatch, path, images, "--val-json", path) == 0
    assert "is the JSON of training too: 3 of 3 images" in capsys.readouterr().out
    other = {**coco(), "images": [{**image, "id": image["id"] + 10} for image in coco()["images"]]}
    for entry in other["annotations"]:
        entry["image_id"] += 10
    other["categories"][0]["name"] = "date"
    assert run(monkeypatch, path, images, "--val-json", save(data, other, "val.json")) == 2
    out = capsys.readouterr().out
    assert f"has images of {path}: 3 of 3 images, '1.jpg'" in out
    assert "split-classes: " in out


def test_a_truncated_image_is_found_by_decoding_and_remembered_until_it_changes(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = data / "images" / "3.jpg"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) * 3 // 4])
    arguments = (data / "train.json", data / "images", "--pixels")
    assert run(monkeypatch, *arguments[:2]) == 0  # its header is sound
    capsys.readouterr()
    assert run(monkeypatch, *arguments) == 2
    first = capsys.readouterr()
    assert f"image-damaged: {image}: cannot be read as an image (image file is truncated" in first.out
    assert "decoded 3 of 3 images" in first.err
    decoded = []
    monkeypatch.setattr("hiera_det.data.coco.pixels.read_image", lambda path, **_: decoded.append(path))
    assert run(monkeypatch, *arguments) == 2
    assert capsys.readouterr().out == first.out
    assert decoded == []
    image.write_bytes(whole)
    assert run(monkeypatch, *arguments) == 0
    assert decoded == [str(image)]


def test_sheet_shows_masks_boxes_and_names(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a mask is, the picture is tinted; where none is, it is as the file has it."""
    assert run(monkeypatch, data / "train.json", data / "images", "--pictures", data / "sheet.png", "--count", 2) == 0
    sheet = Image.open(data / "sheet.png").convert("RGB")
    plain = [Image.open(data / "images" / f"{i}.jpg").getpixel((0, HEIGHT - 1)) for i in (1, 2)]
    colors = {color for _, color in sheet.getcolors(1 << 20) or ()}
    assert set(plain) <= colors
    tinted = [
        tuple(int(0.65 * part + 0.35 * tone) for part, tone in zip(rgb, (0, 217, 242), strict=True)) for rgb in plain
    ]
    for color in tinted:
        assert any(max(abs(a - b) for a, b in zip(color, other, strict=True)) <= 1 for other in colors)


def test_the_script_and_a_missing_json() -> None:
    tool = Path(__file__).parents[2] / "tools" / "check_dataset.py"
    done = subprocess.run([sys.executable, tool, "absent.json", "."], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "")
    assert "absent.json: no such JSON file" in done.stdout
