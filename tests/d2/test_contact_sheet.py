"""The sheet of augmented training images: what it shows, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from detectron2.config import CfgNode
from PIL import Image
from pycocotools import mask as coco_mask

from hiera_det.d2.config.load import load_config
from hiera_det.d2.data.contact_sheet import CAPTION_HEIGHT, CELL, GAP, draw_augmented
from hiera_det.d2.data.datasets import own_data_config
from hiera_det.errors import InputError
from hiera_det.report.drawing import PALETTE

CONFIG = str(Path(__file__).parents[2] / "configs" / "mask_rcnn_hiera_t_1x.yaml")
WIDTH, HEIGHT = 120, 80
POLYGON = [[30, 20, 90, 20, 90, 60, 30, 60]]
IMAGE_GREY, PAD_GREY = 60, 128


@pytest.fixture
def make_config(tmp_path: Path) -> Any:
    """Grey images, of which the first has an object, as polygon, RLE or box, and a config with that object in view."""

    def make(kind: str, *opts: str, images: int = 2) -> CfgNode:
        rle = coco_mask.frPyObjects(POLYGON, HEIGHT, WIDTH)[0]
        rle["counts"] = rle["counts"].decode()
        segmentation = {"polygon": {"segmentation": POLYGON}, "rle": {"segmentation": rle}, "box": {}}[kind]
        annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [30, 20, 60, 40], "area": 2400, "iscrowd": 0}
        entries = []
        for index in range(1, images + 1):
            Image.new("RGB", (WIDTH, HEIGHT), (IMAGE_GREY,) * 3).save(tmp_path / f"{index}.png")
            entries.append({"id": index, "file_name": f"{index}.png", "width": WIDTH, "height": HEIGHT})
        categories = [{"id": 1, "name": "fig"}, {"id": 2, "name": "$date"}]
        data = {"images": entries, "annotations": [annotation | segmentation], "categories": categories}
        (tmp_path / "train.json").write_text(json.dumps(data))
        jitter = ["INPUT.LSJ.ENABLED", "True", "INPUT.LSJ.SIZE", "64", "MODEL.HIERA.SQUARE_PAD", "64"]
        jitter += ["INPUT.LSJ.SCALE", "[1.0, 1.0]"]
        masks = ["MODEL.MASK_ON", str(kind != "box")]
        cfg = load_config(CONFIG, [*([] if "INPUT.MIN_SIZE_TRAIN" in opts else jitter), *masks, *opts])
        own_data_config(cfg, str(tmp_path / "train.json"), str(tmp_path))
        return cfg

    return make


def cell(sheet: Path, index: int) -> npt.NDArray[np.uint8]:
    """One picture ``[CELL, CELL, 3]`` of a sheet's first row."""
    x = index * (CELL + GAP)
    return np.asarray(Image.open(sheet))[CAPTION_HEIGHT : CAPTION_HEIGHT + CELL, x : x + CELL]


@pytest.mark.parametrize("kind", ["polygon", "rle", "box"])
def test_objects_padding_and_images_without_objects_are_shown(kind: str, make_config: Any, tmp_path: Path) -> None:
    path = draw_augmented(make_config(kind), tmp_path / "new" / "sheet.png", count=2)
    assert path == tmp_path / "new" / "sheet.png"
    assert [entry.name for entry in path.parent.iterdir()] == ["sheet.png"]
    assert Image.open(path).size == (2 * CELL + GAP, CELL + CAPTION_HEIGHT)
    scale = CELL / WIDTH  # the image fills the cell's width
    with_object, empty = (cell(path, index) for index in range(2))
    assert (empty[: int(HEIGHT * scale) - 2] == IMAGE_GREY).all()
    for picture in (with_object, empty):
        assert (picture[int(HEIGHT * scale) + 4 :] == PAD_GREY).all()
    inside = with_object[int(50 * scale), int(45 * scale)].astype(int)
    assert (inside != IMAGE_GREY).any() == (kind != "box")
    assert (with_object[int(72 * scale), int(60 * scale)] == IMAGE_GREY).all()
    edge = with_object[int(40 * scale), int(30 * scale) - 3 : int(30 * scale) + 4]  # across the box's left side
    assert (
        np.abs(edge - np.array(PALETTE[0]) * 255).sum(axis=1).min() < 250
    )  # drawn half over the grey, which is 399 away


def test_few_images_come_again_and_rows_are_filled(make_config: Any, tmp_path: Path) -> None:
    path = draw_augmented(make_config("polygon", "INPUT.LSJ.SCALE", "[0.3, 1.0]"), tmp_path / "sheet.png", count=6)
    assert Image.open(path).size == (4 * (CELL + GAP) - GAP, 2 * (CELL + CAPTION_HEIGHT + GAP) - GAP)
    assert (cell(path, 0) != cell(path, 1)).any()  # the same image, drawn anew


def test_without_jitter_images_are_as_large_as_the_largest(make_config: Any, tmp_path: Path) -> None:
    path = draw_augmented(make_config("polygon", "INPUT.MIN_SIZE_TRAIN", "(40,)"), tmp_path / "sheet.png", count=2)
    assert (cell(path, 1)[:300, :] == IMAGE_GREY).all()


def test_channels_are_shown_in_their_own_order(make_config: Any, tmp_path: Path) -> None:
    cfg = make_config("polygon", "INPUT.FORMAT", "BGR")
    Image.new("RGB", (WIDTH, HEIGHT), (200, 20, 20)).save(tmp_path / "2.png")
    picture = cell(draw_augmented(cfg, tmp_path / "sheet.png", count=2), 1)
    assert picture[100, 100].tolist() == [200, 20, 20]


def test_the_sheet_is_of_the_trainings_own_images(make_config: Any, tmp_path: Path) -> None:
    cfg = make_config("polygon")
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    path = draw_augmented(cfg, tmp_path / "sheet.png", count=2)
    assert all((cell(path, index)[200, 200] != IMAGE_GREY).any() for index in range(2))


def test_what_cannot_be_drawn_is_refused_in_one_line(make_config: Any, tmp_path: Path) -> None:
    cfg = make_config("polygon")
    with pytest.raises(InputError, match="count 0"):
        draw_augmented(cfg, tmp_path / "sheet.png", count=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"sheet\.png: cannot be written"):
        draw_augmented(cfg, tmp_path / "file" / "sheet.png", count=1)
    (tmp_path / "1.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"1\.png: cannot be read as an image") as caught:
        draw_augmented(cfg, tmp_path / "sheet.png", count=1)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "sheet.png").exists()
