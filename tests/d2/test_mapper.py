"""From records to samples: images of every shape and depth, and bad ones named or left out, from workers too."""

from __future__ import annotations

import itertools
import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BoxMode
from detectron2.utils.events import EventStorage
from PIL import Image

from hiera_det.d2.config.load import load_config
from hiera_det.d2.data.batches import build_test_loader
from hiera_det.d2.data.datasets import own_data_config
from hiera_det.d2.data.mapper import build_test_mapper, build_train_mapper
from hiera_det.d2.data.train_loader import build_train_loader
from hiera_det.d2.predict.pictures import draw_predictions
from hiera_det.d2.train.trainer import Trainer
from hiera_det.data.images import BadImageError
from hiera_det.engine.loader import unwrap
from hiera_det.errors import InputError

CONFIG = str(Path(__file__).parents[2] / "configs" / "mask_rcnn_hiera_t_1x.yaml")
TINY = ["MODEL.DEVICE", "cpu", "MODEL.HIERA.EMBED_DIM", "16", "MODEL.HIERA.DEPTHS", "[1, 1, 1, 1]"]
TINY += ["MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.CONV_DIM", "16", "MODEL.ROI_MASK_HEAD.CONV_DIM", "16"]
TINY += ["INPUT.MIN_SIZE_TEST", "64", "MODEL.ROI_HEADS.NUM_CLASSES", "1"]
TINY += ["INPUT.MAX_SIZE_TEST", "256", "DATALOADER.NUM_WORKERS", "0"]
RESIZE = ["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MAX_SIZE_TRAIN", "256"]
JITTER = ["INPUT.LSJ.ENABLED", "True", "INPUT.LSJ.SIZE", "64", "INPUT.LSJ.SCALE", "[0.5, 1.0]"]
#: Height and width.
SLIVERS = [(2, 3000), (1, 5000), (5000, 1), (1, 1), (3, 2), (40, 2)]


def config(*opts: str) -> CfgNode:
    return load_config(CONFIG, [*TINY, *opts])


def record(path: Path, height: int, width: int) -> dict[str, Any]:
    """A record of one object that covers all of the image."""
    polygon = [0.0, 0.0, width, 0.0, width, height, 0.0, height]
    annotation = {"bbox": [0, 0, width, height], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 0}
    annotations = [annotation | {"segmentation": [list(map(float, polygon))]}]
    return {"file_name": str(path), "height": height, "width": width, "image_id": 1, "annotations": annotations}


@pytest.fixture
def slivers(tmp_path: Path) -> list[dict[str, Any]]:
    records = []
    for height, width in SLIVERS:
        path = tmp_path / f"{height}x{width}.png"
        Image.fromarray(np.full((height, width, 3), 90, dtype=np.uint8)).save(path)
        records.append(record(path, height, width))
    return records


@pytest.mark.parametrize("opts", [RESIZE, JITTER], ids=["resize", "jitter"])
def test_slivers_are_trained_on(slivers: list[dict[str, Any]], opts: list[str]) -> None:
    cfg = config(*opts)
    mapper, model = build_train_mapper(cfg), build_model(cfg).train()
    with EventStorage():
        for one in slivers:
            sample = mapper(one)
            assert sample is not None
            assert min(sample["image"].shape) >= 1
            losses = model([sample])
            assert all(torch.isfinite(loss) for loss in losses.values()), one["file_name"]
            sum(losses.values()).backward()


def val_config(records: list[dict[str, Any]], folder: Path, *opts: str) -> CfgNode:
    """The records as validation data."""
    images, annotations = [], []
    for number, one in enumerate(records, start=1):
        size = {"height": one["height"], "width": one["width"]}
        images.append({"id": number, "file_name": Path(one["file_name"]).name, **size})
        (annotation,) = one["annotations"]
        plain = {"bbox": annotation["bbox"], "segmentation": annotation["segmentation"], "iscrowd": 0}
        annotations.append(plain | {"id": number, "image_id": number, "category_id": 1, "area": 1.0})
    data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "fig"}], "info": {}}
    (folder / "val.json").write_text(json.dumps(data))
    cfg = config(*opts)
    own_data_config(cfg, val_json=str(folder / "val.json"), val_images=str(folder))
    return cfg


@pytest.mark.parametrize("batch", ["1", "3"])
def test_slivers_are_evaluated_and_drawn(slivers: list[dict[str, Any]], tmp_path: Path, batch: str) -> None:
    cfg = val_config(slivers, tmp_path, "TEST.IMS_PER_BATCH", batch, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0")
    model = build_model(cfg).eval()
    with torch.no_grad():
        found = [output for inputs in build_test_loader(cfg, cfg.DATASETS.TEST[0]) for output in model(inputs)]
    assert sorted(output["instances"].image_size for output in found) == sorted(SLIVERS)
    if batch == "1":
        assert len(draw_predictions(model, cfg.DATASETS.TEST[0], cfg, tmp_path / "out", threshold=0.0)) == len(SLIVERS)


def test_depth_and_transparency_mean_the_same_in_training_and_tests(tmp_path: Path) -> None:
    grey = np.linspace(0, 255, 60 * 80).round().astype(np.uint8).reshape(60, 80)
    kinds = {
        "plain": grey,
        "deep": grey.astype(np.uint16) * 257,
        "alpha": np.dstack([grey, grey, grey, np.full_like(grey, 255)]),
    }
    samples = []
    for name, pixels in kinds.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        one = record(tmp_path / f"{name}.png", 60, 80)
        for mapper in (build_train_mapper(config("INPUT.RANDOM_FLIP", "none", *RESIZE)), build_test_mapper(config())):
            samples.append(mapper(one)["image"])
            samples.append(mapper(one | {"file_name": tmp_path / f"{name}.png"})["image"])
    for sample in samples[1:]:
        assert torch.equal(sample, samples[0])
    assert samples[0].float().std() > 50


@pytest.fixture
def with_bad(tmp_path: Path) -> list[dict[str, Any]]:
    """Three whole images, and between them one that is cut off behind its header."""
    records = []
    for name in ("a", "b", "cut", "c"):
        Image.effect_noise((80, 60), 60).convert("RGB").save(tmp_path / f"{name}.jpg")
        records.append(record(tmp_path / f"{name}.jpg", 60, 80))
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(cut.read_bytes()[:1200])
    return records


def test_a_bad_image_is_named_or_skipped_and_counted(
    with_bad: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(BadImageError, match=r"cut\.jpg: cannot be read as an image \(.*truncated"):
        build_train_mapper(config())(with_bad[2])
    mapper = build_train_mapper(config("INPUT.ON_BAD_IMAGE", "skip"))
    assert [mapper(one) is None for one in with_bad] == [False, False, True, False]
    assert mapper(with_bad[2]) is None
    assert mapper.bad_images.count == 2
    assert sum("cut.jpg: cannot be read" in message for message in caplog.messages) == 1


def test_workers_count_what_they_leave_out_together(with_bad: list[dict[str, Any]]) -> None:
    mapper = build_train_mapper(config("INPUT.ON_BAD_IMAGE", "skip"))
    in_worker = partial(map, mapper)
    loader = torch.utils.data.DataLoader(with_bad * 3, num_workers=2, collate_fn=lambda batch: list(in_worker(batch)))  # type: ignore[arg-type]
    assert sum(sample is None for batch in loader for sample in batch) == 3
    assert mapper.bad_images.count == 3


@pytest.mark.parametrize("workers", ["0", "2"])
def test_an_evaluation_names_a_bad_image_from_its_workers(
    with_bad: list[dict[str, Any]], tmp_path: Path, workers: str, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = val_config(with_bad, tmp_path, "DATALOADER.NUM_WORKERS", workers)
    with pytest.raises(InputError, match=r"cut\.jpg: cannot be read as an image \(") as caught:
        list(build_test_loader(cfg, cfg.DATASETS.TEST[0]))
    assert "Traceback" not in str(caught.value)
    cfg.INPUT.ON_BAD_IMAGE = "skip"
    with caplog.at_level(logging.WARNING):
        left = [inputs["image_id"] for batch in build_test_loader(cfg, cfg.DATASETS.TEST[0]) for inputs in batch]
    assert left == [1, 2, 4]


def test_a_bad_image_costs_its_picture_only(
    with_bad: list[dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = val_config(with_bad, tmp_path)
    drawn = draw_predictions(build_model(cfg), cfg.DATASETS.TEST[0], cfg, tmp_path / "out")
    assert [path.name for path in drawn] == ["0_a.jpg", "1_b.jpg", "3_c.jpg"]
    assert "cut.jpg: cannot be read as an image" in caplog.text


def test_an_image_of_another_size_than_its_annotations_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (80, 60)).save(tmp_path / "a.png")
    with pytest.raises(BadImageError, match=r"a\.png: is 80x60 pixels, and the data set says 80x61"):
        build_train_mapper(config())(record(tmp_path / "a.png", 61, 80))


def test_what_to_do_with_bad_images_must_be_known() -> None:
    cfg = config()
    cfg.INPUT.ON_BAD_IMAGE = "ignore"
    with pytest.raises(InputError, match=r"INPUT\.ON_BAD_IMAGE 'ignore': choose fail or skip"):
        build_train_mapper(cfg)


def test_a_training_takes_the_same_stand_ins_each_time(with_bad: list[dict[str, Any]]) -> None:
    drawn = []
    for _ in range(2):
        mapper = build_train_mapper(config("INPUT.ON_BAD_IMAGE", "skip", *RESIZE))
        loader = build_train_loader(with_bad, mapper=mapper, total_batch_size=2, seed=5, num_workers=0)
        batches = itertools.islice(loader, 6)
        drawn.append([Path(sample["file_name"]).stem for batch in batches for sample in batch])
        assert mapper.bad_images.count >= 3
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == {"a", "b", "c"}
    refusing = build_train_loader(
        with_bad, mapper=build_train_mapper(config(*RESIZE)), total_batch_size=4, num_workers=1
    )
    with pytest.raises(InputError, match=r"cut\.jpg: cannot be read as an image"):
        unwrap(next(iter(refusing)))


def test_a_training_says_how_often_an_image_was_replaced(
    with_bad: list[dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    val_config(with_bad, tmp_path)  # writes the JSON
    opts = ["INPUT.ON_BAD_IMAGE", "skip", "DATALOADER.NUM_WORKERS", "1", "OUTPUT_DIR", str(tmp_path / "out")]
    opts += ["SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "()", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.WARMUP_ITERS", "0"]
    opts += ["SOLVER.SCALING", "none", "TEST.PICTURES", "0", "TEST.REPORT", "False", "MODEL.WEIGHTS", ""]
    cfg = config(*RESIZE, *opts)
    own_data_config(cfg, train_json=str(tmp_path / "val.json"), train_images=str(tmp_path))
    Path(cfg.OUTPUT_DIR).mkdir()
    trainer = Trainer(cfg)
    trainer.train()
    assert "times another image took the place of one that cannot be read" in caplog.text
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.json").read_text().splitlines()]
    assert max(line.get("bad_images", 0) for line in lines) >= 1
