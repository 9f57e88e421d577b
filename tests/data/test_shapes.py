"""The built-in shapes: exact masks, the same files from the same settings, all or nothing, one-line refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hiera_det.data import cells
from hiera_det.data.coco.check import check_coco_json
from hiera_det.data.scenes import CLASS_NAMES, coverage, draw_scene, trace_polygons, unit_outline
from hiera_det.data.shapes import ShapesPaths, write_shapes_dataset
from hiera_det.errors import InputError

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "make_shapes_dataset.py"


def rasterise(polygons: list[list[float]], height: int, width: int) -> np.ndarray:
    """COCO's own mask ``[H, W]`` of an annotation."""
    import pycocotools.mask as masks

    return masks.decode(masks.merge(masks.frPyObjects(polygons, height, width))).astype(bool)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run_tool(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(TOOL), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> ShapesPaths:
    return write_shapes_dataset(tmp_path_factory.mktemp("data") / "shapes", 12, 4, (96, 128), 3)


@pytest.fixture(scope="module")
def train(paths: ShapesPaths) -> dict[str, Any]:
    return json.loads(paths.train_json.read_text())


def test_every_file_is_there(paths: ShapesPaths) -> None:
    root = paths.preview.parent
    images = [f"images/train/{i:06d}.jpg" for i in range(12)] + [f"images/val/{i:06d}.jpg" for i in range(4)]
    assert sorted(contents(root)) == ["annotations/train.json", "annotations/val.json", *images, "preview.png"]
    assert [path.name for path in root.parent.iterdir()] == ["shapes"]
    assert not paths.reused


def test_data_set_passes_our_own_check(paths: ShapesPaths) -> None:
    for json_path, images, number in (
        (paths.train_json, paths.train_images, 12),
        (paths.val_json, paths.val_images, 4),
    ):
        summary = check_coco_json(json_path, images)
        assert (summary.class_names, summary.num_images) == (CLASS_NAMES, number)
        assert (summary.num_negatives, summary.mask_format, summary.gaps, summary.notes) == (0, "polygon", (), ())


def test_images_are_rgb_of_the_size_asked_for(paths: ShapesPaths) -> None:
    for path in paths.train_images.iterdir():
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((128, 96), "RGB")


def test_polygons_agree_with_area_and_box_and_do_not_overlap(train: dict[str, Any]) -> None:
    taken = {image["id"]: np.zeros((96, 128), dtype=int) for image in train["images"]}
    assert [annotation["id"] for annotation in train["annotations"]] == list(range(1, len(train["annotations"]) + 1))
    for annotation in train["annotations"]:
        mask = rasterise(annotation["segmentation"], 96, 128)
        rows, columns = np.nonzero(mask)
        assert mask.sum() == annotation["area"]
        x, y, width, height = annotation["bbox"]
        assert (x, y, x + width, y + height) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert annotation["iscrowd"] == 0
        taken[annotation["image_id"]] += mask
    assert max(mask.max() for mask in taken.values()) == 1
    assert min(mask.max() for mask in taken.values()) == 1  # no image without a shape


def test_polygon_coordinates_are_floats(train: dict[str, Any]) -> None:
    # detectron2 resizes polygons in place: whole numbers would be cut off
    numbers = {
        type(x) for annotation in train["annotations"] for polygon in annotation["segmentation"] for x in polygon
    }
    assert numbers == {float}


@pytest.mark.parametrize("size", [(32, 32), (64, 96)])
def test_polygons_return_the_visible_mask(size: tuple[int, int]) -> None:
    for index in range(20):
        _, shapes = draw_scene(0, 0, index, *size)
        for shape in shapes:
            np.testing.assert_array_equal(rasterise(trace_polygons(shape.visible), *size), shape.visible)


@pytest.mark.parametrize("density", [0.3, 0.6, 0.9])  # specks and touching corners, both, holes
def test_polygons_of_any_mask_return_it(density: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.uniform(size=(13, 17)) < density
        np.testing.assert_array_equal(rasterise(trace_polygons(mask), 13, 17), mask)


def test_polygons_without_holes_are_one_per_part_and_corners_only() -> None:
    mask = np.zeros((6, 8), dtype=bool)
    mask[1:4, 2:5] = mask[4:6, 5:7] = True
    assert trace_polygons(mask) == [[5, 1, 5, 4, 2, 4, 2, 1], [7, 4, 7, 6, 5, 6, 5, 4]]


def test_every_shape_keeps_a_fair_part_visible() -> None:
    counts = []
    for index in range(40):
        _, shapes = draw_scene(1, 0, index, 64, 64)
        counts.append(len(shapes))
        assert all(shape.visible.sum() >= shape.least_visible for shape in shapes)
    assert (min(counts), max(counts)) == (1, 6)


def test_cells_are_many_small_and_exact(tmp_path: Path) -> None:
    pixels, found = cells.draw_scene(0, 0, 0, 128, 160)
    assert pixels.shape == (128, 160, 3)
    assert len(found) > 10
    assert {cell.category for cell in found} == {1, 2}
    for cell in found:
        assert cell.visible.sum() >= cell.least_visible
        assert max(np.ptp(np.nonzero(cell.visible), axis=1)) < 0.15 * 128
        np.testing.assert_array_equal(rasterise(trace_polygons(cell.visible), 128, 160), cell.visible)
    paths = write_shapes_dataset(tmp_path / "cells", 1, 1, 64, kind="cells")
    coco = json.loads(paths.train_json.read_text())
    assert [category["name"] for category in coco["categories"]] == ["round", "rod"]
    assert write_shapes_dataset(tmp_path / "cells", 1, 1, 64, kind="cells").reused
    with pytest.raises(InputError, match=r"other settings .*kind cells"):
        write_shapes_dataset(tmp_path / "cells", 1, 1, 64)


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_coverage_adds_up_to_the_area(name: str) -> None:
    outline = 20 * unit_outline(name, np.random.default_rng(0)) + (24.3, 22.8)
    x, y = outline.T
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y)) / 2
    covered = coverage(outline, 46, 50)
    assert covered.sum() == pytest.approx(area, rel=2e-3)
    assert np.hypot(*(outline - (24.3, 22.8)).T).max() == pytest.approx(20)


def test_coverage_of_a_rectangle_is_its_share_of_each_pixel() -> None:
    covered = coverage(np.array([[-3.0, 1.0], [2.25, 1.0], [2.25, 2.5], [-3.0, 2.5]]), 4, 4)
    expected = [[0, 0, 0, 0], [1, 1, 0.25, 0], [0.5, 0.5, 0.125, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(covered, expected, atol=1e-12)


def test_same_settings_give_the_same_bytes(paths: ShapesPaths, tmp_path: Path) -> None:
    write_shapes_dataset(tmp_path / "again", 12, 4, (96, 128), 3)
    assert contents(tmp_path / "again") == contents(paths.preview.parent)


def test_larger_set_begins_with_the_smaller_one(paths: ShapesPaths, train: dict[str, Any], tmp_path: Path) -> None:
    few = write_shapes_dataset(tmp_path / "few", 5, 1, (96, 128), 3)
    for path in [*few.train_images.iterdir(), *few.val_images.iterdir()]:
        assert path.read_bytes() == (paths.preview.parent / path.relative_to(tmp_path / "few")).read_bytes()
    smaller = json.loads(few.train_json.read_text())
    assert smaller["annotations"] == train["annotations"][: len(smaller["annotations"])]
    assert smaller["images"] == train["images"][:5]


def test_seed_split_and_index_each_change_the_image() -> None:
    images = [
        draw_scene(seed, split, index, 32, 32)[0].tobytes()
        for seed, split, index in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1)]
    ]
    assert len(set(images)) == 5


def test_same_settings_leave_the_folder_alone(tmp_path: Path) -> None:
    first = write_shapes_dataset(tmp_path / "shapes", 1, 1, 32)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    second = write_shapes_dataset(tmp_path / "shapes", 1, 1, 32)
    assert second.reused
    assert second.train_json == first.train_json
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times


def test_other_settings_are_refused_and_replaced_only_on_demand(tmp_path: Path) -> None:
    out = tmp_path / "shapes"
    write_shapes_dataset(out, 2, 1, 32)
    with pytest.raises(InputError, match=r"shapes: exists and was made with other settings .*--overwrite"):
        write_shapes_dataset(out, 1, 1, 32)
    paths = write_shapes_dataset(out, 1, 1, 32, overwrite=True)
    assert len(list(paths.train_images.iterdir())) == 1
    assert list(tmp_path.iterdir()) == [out]


def test_incomplete_set_is_told_and_can_be_made_again(tmp_path: Path) -> None:
    paths = write_shapes_dataset(tmp_path / "shapes", 2, 1, 32)
    (paths.train_images / "000001.jpg").unlink()
    with pytest.raises(InputError, match=r"lacks images/train/000001\.jpg; .*--overwrite"):
        write_shapes_dataset(tmp_path / "shapes", 2, 1, 32)
    write_shapes_dataset(tmp_path / "shapes", 2, 1, 32, overwrite=True)
    assert (paths.train_images / "000001.jpg").is_file()


def test_files_of_others_are_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    write_shapes_dataset(tmp_path / "shapes", 1, 1, 32)
    (tmp_path / "shapes" / "images" / "notes.txt").write_text("mine too")
    before = contents(tmp_path)
    with pytest.raises(InputError, match="mine: exists and is not a shapes data set; choose another folder"):
        write_shapes_dataset(tmp_path / "mine", 1, 1, 32, overwrite=True)
    with pytest.raises(InputError, match=r"holds files of others \(images/notes\.txt\)"):
        write_shapes_dataset(tmp_path / "shapes", 2, 1, 32, overwrite=True)
    assert contents(tmp_path) == before


def test_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "shapes").mkdir()
    assert write_shapes_dataset(tmp_path / "shapes", 1, 1, 32).preview.is_file()
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("reason", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("exists", [False, True])
def test_interrupted_writing_leaves_no_trace(tmp_path: Path, reason: type[BaseException], exists: bool) -> None:
    if exists:
        write_shapes_dataset(tmp_path / "shapes", 1, 1, 32)
    before = contents(tmp_path)

    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise reason

    with pytest.raises(reason):
        write_shapes_dataset(tmp_path / "shapes", 2, 1, 32, overwrite=True, progress=interrupt)
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"] * exists


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": 0}, "train 0: must be at least 1"),
        ({"val": -2}, "val -2: must be at least 1"),
        ({"seed": -1}, "seed -1: must be at least 0"),
        ({"size": 31}, "size 31x31: height and width must be 32 to 4096 pixels"),
        ({"size": (64, 5000)}, "size 64x5000: height and width must be 32 to 4096 pixels"),
    ],
)
def test_senseless_settings_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_shapes_dataset(tmp_path / "shapes", **settings)
    assert not any(tmp_path.iterdir())


def test_unwritable_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_shapes_dataset(tmp_path / "file" / "shapes", 1, 1, 32)
    with pytest.raises(InputError, match="exists and is not a shapes data set"):
        write_shapes_dataset(tmp_path / "file", 1, 1, 32)


def test_current_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is the current folder; name a new one"):
        write_shapes_dataset(".", 1, 1, 32)


def test_tool_prints_the_paths_and_the_preview_last(tmp_path: Path) -> None:
    arguments = ("shapes", "--train", "3", "--val", "1", "--size", "32x48")
    result = run_tool(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    named = [line.split(":")[1].strip() for line in result.stdout.splitlines()]
    assert named[-1] == str(Path("shapes/preview.png"))
    assert len(named) == 5
    assert all((tmp_path / path).exists() for path in named)
    assert "already there" in run_tool(*arguments, cwd=tmp_path).stdout


@pytest.mark.parametrize("arguments", [("shapes", "--train", "0"), ("shapes", "--size", "big"), ("taken",)])
def test_tool_refuses_in_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "taken").write_text("")
    result = run_tool(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


def test_module_needs_neither_torch_nor_detectron2() -> None:
    code = "import sys, hiera_det.data.shapes; assert not {'torch', 'detectron2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
