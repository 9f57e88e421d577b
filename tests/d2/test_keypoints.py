"""Keypoints on own data, from the JSON to the picture: trained, evaluated, predicted and drawn."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data.detection_utils import create_keypoint_hflip_indices
from detectron2.data.transforms import RandomFlip
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, Instances
from PIL import Image, ImageDraw
from pycocotools.coco import COCO

from hiera_det.cli import predict
from hiera_det.d2.config.request import RunRequest
from hiera_det.d2.config.setup import setup_config
from hiera_det.d2.data.mapper import build_train_mapper
from hiera_det.d2.predict.pictures import predicted_objects
from hiera_det.d2.predict.predictor import Predictor
from hiera_det.d2.train.run import train_by_yaml
from hiera_det.data.shapes import ShapesPaths
from hiera_det.engine.events import read_metrics
from hiera_det.errors import InputError
from hiera_det.report.drawing import draw_objects

NAMES = ["left_eye", "right_eye", "tip"]
SIGMAS = ("TEST.KEYPOINT_OKS_SIGMAS", "[0.1, 0.1, 0.1]")
ON = ("MODEL.KEYPOINT_ON", "True", "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", "[16]", "SOLVER.MAX_ITER", "2")
ON += ("SOLVER.STEPS", "()")


def write_kites(folder: Path, split: str, count: int) -> None:
    """Kites, symmetric from left to right, with two eyes and a tip; an image without any, a kite without keypoints."""
    images, annotations = [], []
    (folder / split).mkdir()
    for number in range(count):
        image = Image.new("RGB", (64, 64), (30, 30, 30))
        draw = ImageDraw.Draw(image)
        x, y = 8 + 4 * number, 6 + 2 * number
        if number:
            draw.polygon([x, y, x + 24, y, x + 12, y + 30], fill=(200, 120, 40))
            draw.point([(x + 6, y + 4), (x + 18, y + 4)], fill=(255, 255, 255))
            outline = [x, y, x + 24, y, x + 12, y + 30]
            entry: dict[str, Any] = {"id": number, "image_id": number, "category_id": 5, "bbox": [x, y, 25, 31]}
            entry |= {"area": 775, "iscrowd": 0, "segmentation": [outline]}
            if number != 2:
                entry["keypoints"] = [x + 6, y + 4, 2, x + 18, y + 4, 1, x + 12, y + 30, 2]
                entry["num_keypoints"] = 3
            annotations.append(entry)
        image.save(folder / split / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
    category = {"id": 5, "name": "kite", "keypoints": NAMES, "skeleton": [[1, 3], [2, 3]]}
    content = {"info": {}, "images": images, "annotations": annotations, "categories": [category]}
    (folder / f"{split}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def kites(tmp_path_factory: pytest.TempPathFactory) -> ShapesPaths:
    folder = tmp_path_factory.mktemp("kites")
    for split, count in (("train", 6), ("val", 4)):
        write_kites(folder, split, count)
    return ShapesPaths(folder / "train.json", folder / "train", folder / "val.json", folder / "val", folder / "none")


@pytest.fixture(scope="module")
def trained(kites: ShapesPaths, tmp_path_factory: pytest.TempPathFactory, training_arguments: Any) -> Path:
    out = tmp_path_factory.mktemp("trained") / "out"
    train_by_yaml(training_arguments(out, kites, *ON, *SIGMAS, "TEST.PICTURES", "2"), True)
    return out


def test_a_training_has_a_loss_and_an_ap_of_keypoints(trained: Path) -> None:
    lines = read_metrics(trained / "metrics.json")
    assert any(line.get("loss_keypoint", 0) > 0 for line in lines)
    assert any("keypoints/AP" in line for line in lines)
    assert (trained / "predictions.png").is_file()


def test_mirroring_exchanges_left_and_right_and_that_is_said(
    kites: ShapesPaths, tmp_path: Path, training_arguments: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cfg = setup_config(training_arguments(tmp_path / "out", kites, *ON, *SIGMAS))
    assert "keypoints that change places in mirrored images: left_eye/right_eye" in caplog.text
    assert "1 of 5 annotations have no labelled keypoints" in caplog.text
    assert list(create_keypoint_hflip_indices(cfg.DATASETS.TRAIN)) == [1, 0, 2]
    mapper = build_train_mapper(cfg)
    mapper.augmentations.augs = [RandomFlip(prob=1.0)]
    points = [14.5, 10.5, 2, 26.5, 10.5, 1, 20.5, 36.5, 2]
    record = {"file_name": str(kites.train_images / "1.png"), "height": 64, "width": 64, "image_id": 1}
    annotation = {"bbox": [8, 6, 25, 31], "bbox_mode": 1, "category_id": 0, "keypoints": points}
    sample = mapper({**record, "annotations": [annotation | {"segmentation": [[8, 6, 32, 6, 20, 36]]}]})
    assert sample is not None
    mirrored = sample["instances"].gt_keypoints.tensor[0].tolist()
    assert mirrored == [[37.5, 10.5, 1.0], [49.5, 10.5, 2.0], [43.5, 36.5, 2.0]]


def test_perfect_keypoints_have_an_ap_of_100_and_exchanged_ones_less(
    kites: ShapesPaths, trained: Path, tmp_path: Path, training_arguments: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for order in ([0, 1, 2], [1, 0, 2]):
        monkeypatch.setattr(GeneralizedRCNN, "inference", oracle(kites, order))
        out = tmp_path / str(order[0])
        weights = ("MODEL.WEIGHTS", str(trained / "model_final.pth"))
        train_by_yaml(training_arguments(out, kites, *ON, *SIGMAS, *weights, eval_only=True), True)
        results = json.loads((out / "inference" / "coco_instances_results.json").read_text())
        found.append((out / "log.txt").read_text())
        assert len(results[0]["keypoints"]) == 9
    assert "Evaluation results for keypoints" in found[0]
    assert "| 100.000 | 100.000 | 100.000 |" in found[0].partition("Evaluation results for keypoints")[2]
    assert "| 100.000 | 100.000 | 100.000 |" not in found[1].partition("Evaluation results for keypoints")[2]


def oracle(kites: ShapesPaths, order: list[int]) -> Any:
    """A detector that finds the kites and their keypoints in an order."""
    val = json.loads(kites.val_json.read_text())
    truth = {f"{entry['image_id']}.png": entry for entry in val["annotations"]}

    def inference(self: object, inputs: list[dict[str, Any]], *rest: Any) -> list[dict[str, Instances]]:
        found = []
        for one in inputs:
            entry = truth.get(Path(one["file_name"]).name)
            instances = Instances((64, 64))
            x, y, width, height = entry["bbox"] if entry else (0, 0, 1, 1)
            points = np.array((entry or {}).get("keypoints", [0] * 9), np.float32).reshape(1, 3, 3)[:, order]
            points[:, :, :2] += 0.5
            instances.pred_boxes = Boxes(torch.tensor([[x, y, x + width, y + height]]))
            instances.scores = torch.ones(1)
            instances.pred_classes = torch.zeros(1, dtype=torch.int64)
            instances.pred_keypoints = torch.as_tensor(points)
            found.append({"instances": instances[: int(entry is not None)]})
        return found

    return inference


def test_predictions_are_drawn_and_written_as_coco_has_them(
    kites: ShapesPaths, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["predict", "--run", trained, "--input", kites.val_images, "--output", tmp_path / "drawn"]
    words += ["--json", tmp_path / "found.json", "--images-json", kites.val_json, "--confidence-threshold", "0"]
    monkeypatch.setattr("sys.argv", [str(word) for word in words])
    predict.main()
    results = json.loads((tmp_path / "found.json").read_text())
    assert results
    assert all(len(result["keypoints"]) == 9 for result in results)
    assert COCO(str(kites.val_json)).loadRes(str(tmp_path / "found.json")).anns
    predictor = Predictor.from_folder(trained, threshold=0.0)
    (prediction,) = predictor.predict_files(kites.val_images / "1.png")
    once, twice = (predictor.coco_results(prediction, 1)[0]["keypoints"] for _ in range(2))
    assert once == twice
    seen = prediction.instances.pred_keypoints.clone()
    seen[:, :, 2] = torch.tensor([0.9, 0.9, 0.0])  # the tip is not
    prediction.instances.pred_keypoints = seen
    objects, _ = predicted_objects(prediction.instances, 0.0, ["kite"])
    assert [len(points) for points in objects.keypoints or ()] == [2] * len(prediction.instances)
    without = draw_objects(prediction.image, replace(objects, keypoints=None))
    assert np.any(np.asarray(predictor.draw(prediction)) != np.asarray(without))


def edited(kites: ShapesPaths, tmp_path: Path, change: Any) -> str:
    data = json.loads(kites.train_json.read_text())
    change(data)
    (tmp_path / "edited.json").write_text(json.dumps(data))
    return str(tmp_path / "edited.json")


def drop_names(data: Any) -> None:
    del data["categories"][0]["keypoints"]


def shorten(data: Any) -> None:
    data["annotations"][0]["keypoints"] = [1, 2, 2]


def rename(data: Any) -> None:
    data["categories"][0]["keypoints"][1] = "eye2"


def unlabel(data: Any) -> None:
    for annotation in data["annotations"]:
        annotation.pop("keypoints", None)


def add_other(data: Any) -> None:
    data["categories"].append({"id": 6, "name": "fish", "keypoints": ["fin"]})


@pytest.mark.parametrize(
    ("change", "opts", "says"),
    [
        (drop_names, SIGMAS, 'no category lists keypoints; add "keypoints"'),
        (shorten, SIGMAS, "annotation 1 has 1 keypoints, its category 3"),
        (rename, SIGMAS, "keypoint 'left_eye' has no partner 'right_eye'"),
        (unlabel, SIGMAS, "no annotation has a labelled keypoint"),
        (add_other, SIGMAS, "categories 'kite', 'fish' have different keypoints"),
        (lambda data: None, (), r"TEST.KEYPOINT_OKS_SIGMAS: give the 3 sigmas of the keypoints"),
        (lambda data: None, (*SIGMAS, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", "5"), "NUM_KEYPOINTS 5: .* has 3"),
        (lambda data: None, (*SIGMAS, "TEST.AUG.ENABLED", "True"), "test-time augmentation has no keypoints"),
    ],
)
def test_what_is_missing_is_refused_in_one_line(
    kites: ShapesPaths, tmp_path: Path, training_arguments: Any, change: Any, opts: tuple[str, ...], says: str
) -> None:
    request: RunRequest = training_arguments(tmp_path / "out", kites, *ON, *opts)
    train = edited(kites, tmp_path, change)
    request = replace(request, train_json=train, val_json=train, val_images=request.train_images)
    with pytest.raises(InputError, match=says) as caught:
        setup_config(request)
    assert "\n" not in str(caught.value)
