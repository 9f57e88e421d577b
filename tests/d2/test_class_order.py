"""JSONs of training and evaluation that number the same classes differently: what is found counts by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from detections import CONFIGS, LAZY_SMALL
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, Instances
from PIL import Image

from hiera_det.d2.config.request import RunRequest
from hiera_det.d2.lazy.run import train_by_lazy_config
from hiera_det.d2.predict import pictures
from hiera_det.d2.train.run import train_by_yaml
from hiera_det.data.shapes import ShapesPaths, write_shapes_dataset
from hiera_det.engine.events import read_metrics
from hiera_det.errors import InputError

STEP = ("SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> ShapesPaths:
    """Shapes whose val JSON has the categories the other way round, with other ids."""
    data = write_shapes_dataset(tmp_path_factory.mktemp("order") / "data", train=2, val=6, size=64)
    val = json.loads(data.val_json.read_text())
    new = {category["id"]: 100 - category["id"] for category in val["categories"]}
    for category in val["categories"]:
        category["id"] = new[category["id"]]
    for annotation in val["annotations"]:
        annotation["category_id"] = new[annotation["category_id"]]
    data.val_json.write_text(json.dumps(val))
    return data


@pytest.fixture
def perfect(shapes: ShapesPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that finds all there is, by the training JSON's order of classes."""
    train, val = (json.loads(path.read_text()) for path in (shapes.train_json, shapes.val_json))
    by_id = sorted(train["categories"], key=lambda category: category["id"])
    index = {category["name"]: place for place, category in enumerate(by_id)}
    names = {category["id"]: category["name"] for category in val["categories"]}
    by_number = {image["id"]: image["file_name"] for image in val["images"]}
    files: dict[float, str] = {}
    truth: dict[str, list[Any]] = {name: [] for name in by_number.values()}
    for entry in val["annotations"]:
        x, y, width, height = entry["bbox"]
        box = [x, y, x + width, y + height]
        truth[by_number[entry["image_id"]]].append((box, index[names[entry["category_id"]]]))

    def inference(self: object, inputs: list[dict[str, Any]], *rest: Any) -> list[dict[str, Instances]]:
        found = []
        for one in inputs:
            pixels = one["image"].sum().item()
            files.setdefault(pixels, Path(one.get("file_name", "")).name)  # pictures are drawn of pixels alone
            found.append({"instances": _instances(truth[files[pixels]], one)})
        return found

    monkeypatch.setattr(GeneralizedRCNN, "inference", inference)


def _instances(found: list[Any], image: dict[str, Any]) -> Instances:
    instances = Instances((image["height"], image["width"]))
    instances.pred_boxes = Boxes(torch.tensor([box for box, _ in found]))
    instances.pred_classes = torch.tensor([index for _, index in found])
    instances.scores = torch.ones(len(found))
    return instances


@pytest.fixture
def registered(shapes: ShapesPaths) -> Iterator[tuple[str, str]]:
    names = ("order_train", "order_val")
    for name, split in zip(names, ("train", "val"), strict=True):
        json_file, images = getattr(shapes, f"{split}_json"), getattr(shapes, f"{split}_images")
        register_coco_instances(name, {}, str(json_file), str(images))
    yield names
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def _metrics(out: Path) -> dict[str, Any]:
    return next(line for line in read_metrics(out / "metrics.json") if "bbox/AP" in line)


def test_own_data_in_another_order_have_the_ap_of_those_in_the_same(
    shapes: ShapesPaths, perfect: None, tmp_path: Path, training_arguments: Any
) -> None:
    train_by_yaml(training_arguments(tmp_path / "out", shapes, *STEP), True)
    assert _metrics(tmp_path / "out")["bbox/AP"] == pytest.approx(100)
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "the data set numbers the checkpoint's classes otherwise: mapped by name" in log


def test_an_ap_of_0_in_a_training_names_weights_and_iterations(
    shapes: ShapesPaths, tmp_path: Path, training_arguments: Any
) -> None:
    train_by_yaml(training_arguments(tmp_path / "out", shapes, *STEP, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "1"), True)
    (line,) = [line for line in (tmp_path / "out" / "log.txt").read_text().splitlines() if "may be the reason" in line]
    assert "no weights were loaded: the model began with random ones" in line
    assert "1 iterations are done" in line


def test_registered_data_sets_too(
    shapes: ShapesPaths, perfect: None, tmp_path: Path, registered: tuple[str, str], training_arguments: Any
) -> None:
    request: RunRequest = training_arguments(tmp_path / "out", shapes, *STEP)
    without = dict.fromkeys(("train_json", "train_images", "val_json", "val_images"))
    names = ("DATASETS.TRAIN", str((registered[0],)), "DATASETS.TEST", str((registered[1],)))
    count = len(json.loads(shapes.train_json.read_text())["categories"])
    opts = (*request.opts, *names, "MODEL.ROI_HEADS.NUM_CLASSES", str(count))
    train_by_yaml(replace(request, opts=opts, **without), True)
    assert _metrics(tmp_path / "out")["bbox/AP"] == pytest.approx(100)


def test_records_of_a_function_too(shapes: ShapesPaths, perfect: None, tmp_path: Path, training_arguments: Any) -> None:
    names = ("function_train", "function_val")
    for name, json_file, images in zip(
        names, (shapes.train_json, shapes.val_json), (shapes.train_images, shapes.val_images), strict=True
    ):
        DatasetCatalog.register(name, partial(load_coco_json, str(json_file), str(images), name))
        classes = sorted(json.loads(json_file.read_text())["categories"], key=lambda category: category["id"])
        MetadataCatalog.get(name).thing_classes = [category["name"] for category in classes]
    request: RunRequest = training_arguments(tmp_path / "out", shapes, *STEP)
    without = dict.fromkeys(("train_json", "train_images", "val_json", "val_images"))
    data = ("DATASETS.TRAIN", str((names[0],)), "DATASETS.TEST", str((names[1],)), "TEST.REPORT", "True")
    try:
        train_by_yaml(replace(request, opts=(*request.opts, *data), **without), True)
    finally:
        for name in names:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    assert _metrics(tmp_path / "out")["bbox/AP"] == pytest.approx(100)
    assert (tmp_path / "out" / "report.html").is_file()


def test_lazy_configs_too(shapes: ShapesPaths, perfect: None, tmp_path: Path) -> None:
    lazy = tmp_path / "configs" / "lazy"
    shutil.copytree(CONFIGS / "lazy", lazy)
    (lazy / "small.py").write_text(LAZY_SMALL)
    own = {name: str(getattr(shapes, name)) for name in ("train_json", "train_images", "val_json", "val_images")}
    opts = (f"train.output_dir={tmp_path / 'out'}", "train.max_iter=1", "train.pictures=0")
    train_by_lazy_config(RunRequest(str(lazy / "small.py"), opts, **own), True)
    assert _metrics(tmp_path / "out")["bbox/AP"] == pytest.approx(100)


def test_pictures_name_what_was_found_by_the_training_s_classes(
    shapes: ShapesPaths, perfect: None, tmp_path: Path, training_arguments: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def draw(panel: Any, objects: Any, *colors: Any) -> Image.Image:
        drawn.append(objects)
        return Image.fromarray(panel)

    monkeypatch.setattr(pictures, "draw_objects", draw)
    train_by_yaml(training_arguments(tmp_path / "out", shapes, *STEP, "TEST.PICTURES", "6"), True)
    pairs = list(zip(drawn[::2], drawn[1::2], strict=True))
    assert len(pairs) == 6
    for truth, found in pairs:
        assert [f"{label} 1.00" for label in truth.labels] == found.labels


def test_other_names_are_refused_before_training(shapes: ShapesPaths, tmp_path: Path, training_arguments: Any) -> None:
    val = json.loads(shapes.val_json.read_text())
    val["categories"][0]["name"] = "spiral"
    (tmp_path / "val.json").write_text(json.dumps(val))
    request = replace(training_arguments(tmp_path / "out", shapes, *STEP), val_json=str(tmp_path / "val.json"))
    with pytest.raises(InputError, match=r"only in .*val\.json: 'spiral'; give both the same 'categories' list"):
        train_by_yaml(request, True)
