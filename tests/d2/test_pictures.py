"""Pictures at the end of training: a real small detector over a data set made here."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.modeling import build_model
from PIL import Image, ImageDraw
from torch import nn

from hiera_det.d2 import add_hiera_config
from hiera_det.d2.predict import pictures
from hiera_det.d2.predict.pictures import PictureHook, draw_predictions
from hiera_det.report import panels

SIZES = [(96, 64), (64, 96), (80, 80)]  # width, height
CLASSES = ["disk", "a $10 \\box$ {"]  # the second is no formula


def annotation(id_: int, image: int, category: int, box: list[int], **more: Any) -> dict[str, Any]:
    return {
        "id": id_,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": 0,
        **more,
    }


@pytest.fixture
def dataset(tmp_path: Path) -> Iterator[str]:
    """Three images: polygon and RLE; polygon and mere box, in grey; no objects."""
    images = []
    for index, (width, height) in enumerate(SIZES):
        image = Image.new("RGB", (width, height), (40, 90, 160))
        draw = ImageDraw.Draw(image)
        draw.ellipse((10, 10, 40, 40), fill=(230, 60, 40))
        draw.rectangle((35, 30, 55, 50), fill=(250, 220, 30))
        name = f"picture {index}.png"
        (image.convert("L") if index == 1 else image).save(tmp_path / name)
        images.append({"id": index, "file_name": name, "width": width, "height": height})
    polygon = [[10, 25, 25, 10, 40, 25, 25, 40]]
    counts = [64 * 35 + 30, 20, 44, 20]  # two columns of 20 pixels
    rle = {"size": [64, 96], "counts": [*counts, 64 * 96 - sum(counts)]}
    annotations = [
        annotation(1, 0, 1, [10, 10, 30, 30], segmentation=polygon),
        annotation(2, 0, 2, [35, 30, 20, 20], segmentation=rle, iscrowd=1),
        annotation(3, 1, 1, [10, 10, 30, 30], segmentation=polygon),
        annotation(4, 1, 2, [35, 30, 20, 20]),
    ]
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(CLASSES)]
    path = tmp_path / "data.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    name = f"test_pictures_{tmp_path.name}"
    DatasetCatalog.register(name, lambda: load_coco_json(str(path), str(tmp_path), name))
    MetadataCatalog.get(name)  # so that it can be removed
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.fixture
def cfg(dataset: str, tmp_path: Path) -> CfgNode:
    cfg = get_cfg()
    add_hiera_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16], [32], [64], [128]]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(CLASSES)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.INPUT.MIN_SIZE_TEST = 32
    cfg.INPUT.MAX_SIZE_TEST = 48
    cfg.TEST.DETECTIONS_PER_IMAGE = 3
    cfg.DATASETS.TEST = (dataset,)
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    return cfg


@pytest.fixture
def model(cfg: CfgNode) -> nn.Module:
    torch.manual_seed(0)
    return build_model(cfg)


def write_metrics(path: Path, lines: list[dict[str, Any]], tail: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    return path


@pytest.mark.parametrize(
    ("mask_on", "input_format", "threshold"),
    [(True, "RGB", 0.0), (False, "BGR", 0.0), (True, "BGR", 1.1)],  # no prediction reaches 1.1
)
def test_each_image_gets_a_picture_and_the_sheet_has_all(
    cfg: CfgNode, dataset: str, tmp_path: Path, mask_on: bool, input_format: str, threshold: float
) -> None:
    cfg.MODEL.MASK_ON = mask_on
    cfg.INPUT.FORMAT = input_format
    paths = draw_predictions(build_model(cfg), dataset, cfg, tmp_path / "out", threshold=threshold)
    assert [path.name for path in paths] == ["0_picture_0.jpg", "1_picture_1.jpg", "2_picture_2.jpg"]
    for path, (width, height) in zip(paths, SIZES, strict=True):
        picture = Image.open(path)
        picture.verify()
        scale = panels.PANEL_SIDE / max(width, height)
        assert picture.width == 2 * round(width * scale) + pictures.GAP
        assert picture.height == round(height * scale) + pictures.CAPTION_HEIGHT
    Image.open(tmp_path / "out" / "predictions.png").verify()
    names = {path.name for path in (tmp_path / "out").rglob("*")}
    assert names == {"predictions", "predictions.png", *(path.name for path in paths)}  # nothing half-written


def test_training_mode_is_restored_module_by_module(
    model: nn.Module, cfg: CfgNode, dataset: str, tmp_path: Path
) -> None:
    model.train()
    model.backbone.eval()  # frozen
    before = [module.training for module in model.modules()]
    draw_predictions(model, dataset, cfg, tmp_path / "out", count=1)
    assert [module.training for module in model.modules()] == before
    assert any(before)
    assert not all(before)


@pytest.mark.parametrize(
    ("length", "count", "expected"), [(3, 8, [0, 1, 2]), (15, 8, [0, 2, 4, 6, 8, 10, 12, 14]), (5, 1, [0])]
)
def test_images_are_evenly_spaced(length: int, count: int, expected: list[int]) -> None:
    assert pictures._evenly_spaced(length, count) == expected


def test_unusable_count_is_refused(model: nn.Module, cfg: CfgNode, dataset: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="count 0"):
        draw_predictions(model, dataset, cfg, tmp_path, count=0)


def test_rle_and_polygon_keep_their_place_when_scaled(dataset: str) -> None:
    record = DatasetCatalog.get(dataset)[0]
    truth = panels.objects_of(record["annotations"], (64, 96), (128, 192), CLASSES)
    assert truth.masks is not None
    assert max(truth.masks[0][0]) == 80  # 2 x 40
    rows, columns = truth.masks[1].nonzero()
    assert (rows.min(), rows.max()) == (60, 99)
    assert columns.min() == 70
    assert truth.labels == ["disk", f"{CLASSES[1]} (crowd)"]


class Trainer(SimpleNamespace):
    """What the hook asks of a trainer."""

    iter = max_iter = 10


def run_hook(cfg: CfgNode, **trainer: Any) -> None:
    hook = PictureHook(cfg)
    hook.trainer = Trainer(**trainer)
    hook.after_train()


def test_hook_draws_all_and_logs_the_paths_last(
    cfg: CfgNode, model: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_metrics(tmp_path / "out" / "metrics.json", [{"iteration": 0, "total_loss": 1.0}])
    with caplog.at_level(logging.INFO, logger="hiera_det.pictures"):
        run_hook(cfg, model=nn.DataParallel(model) if torch.cuda.is_available() else model)
    out = Path(cfg.OUTPUT_DIR)
    singles = [out / "predictions" / f"{index}_picture_{index}.jpg" for index in range(3)]
    expected = [*singles, out / "predictions.png", out / "curves.png"]
    assert caplog.messages == [f"pictures: {path}" for path in expected]
    assert all(path.is_file() for path in expected)


@pytest.mark.parametrize("case", ["no test data", "stopped early"])
def test_hook_draws_only_curves(cfg: CfgNode, tmp_path: Path, caplog: pytest.LogCaptureFixture, case: str) -> None:
    write_metrics(tmp_path / "out" / "metrics.json", [{"iteration": 0, "total_loss": 1.0}])
    if case == "no test data":
        cfg.DATASETS.TEST = ()
    with caplog.at_level(logging.INFO, logger="hiera_det.pictures"):
        run_hook(cfg, model=None, iter=3 if case == "stopped early" else 10)
    assert caplog.messages == [f"pictures: {Path(cfg.OUTPUT_DIR) / 'curves.png'}"]


def test_a_picture_that_cannot_be_drawn_costs_one_line(
    cfg: CfgNode, model: nn.Module, dataset: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "picture 1.png").unlink()
    with caplog.at_level(logging.INFO, logger="hiera_det.pictures"):
        run_hook(cfg, model=model)
    bad, no_curves, *drawn = caplog.messages  # there are no metrics either
    assert "picture 1.png: cannot be read as an image (No such file or directory): no picture of it" in bad
    assert "curves could not be drawn: " in no_curves
    assert [Path(line.partition(": ")[2]).name for line in drawn] == [
        "0_picture_0.jpg",
        "2_picture_2.jpg",
        "predictions.png",
    ]
