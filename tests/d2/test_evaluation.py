"""COCO evaluation: every implementation gives the same numbers, and batches change none."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools import mask as coco_mask

from hiera_det.d2.config.load import load_config
from hiera_det.d2.data.datasets import own_data_config
from hiera_det.d2.predict import evaluation
from hiera_det.d2.predict.evaluation import FasterCOCOEvaluator, build_evaluator
from hiera_det.d2.train.trainer import Trainer
from hiera_det.errors import InputError

CONFIG = str(Path(__file__).parents[2] / "configs" / "mask_rcnn_hiera_t_1x.yaml")
TINY = ["MODEL.DEVICE", "cpu", "MODEL.HIERA.EMBED_DIM", "16", "MODEL.HIERA.DEPTHS", "[1, 1, 1, 1]"]
TINY += ["MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.CONV_DIM", "16", "MODEL.ROI_MASK_HEAD.CONV_DIM", "16"]
TINY += ["MODEL.RPN.POST_NMS_TOPK_TEST", "20", "INPUT.MIN_SIZE_TEST", "64", "DATALOADER.NUM_WORKERS", "0"]
#: Neither in a row nor from 1 on, so that an index taken for an id shows; the last is never seen.
CATEGORIES = {3: "fig", 7: "date", 42: "plum", 50: "pear"}
SIDE = 256
IMAGES = 12


def ellipse(rng: np.random.Generator) -> np.ndarray:
    """A polygon [x0, y0, ...] anywhere in an image, of COCO's small to large."""
    angles = np.linspace(0, 2 * math.pi, 20, endpoint=False)
    radii = np.exp(rng.uniform(np.log(5), np.log(110), 2))
    points = rng.uniform(20, SIDE - 20, 2) + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return points.clip(0, SIDE).ravel()


def rle(polygon: np.ndarray) -> dict[str, Any]:
    return coco_mask.frPyObjects([polygon.tolist()], SIDE, SIDE)[0]


def annotation(polygon: np.ndarray, category: int, crowd: bool) -> dict[str, Any]:
    encoded = rle(polygon)
    runs = {"size": [SIDE, SIDE], "counts": encoded["counts"].decode()}
    fields = {"category_id": category, "iscrowd": int(crowd), "bbox": coco_mask.toBbox(encoded).tolist()}
    return fields | {"area": float(coco_mask.area(encoded)), "segmentation": runs if crowd else [polygon.tolist()]}


def found(rng: np.random.Generator, truth: list[tuple[np.ndarray, int]]) -> Instances:
    """What a fair detector would find: true objects moved a little, some of another class, scores with ties."""
    polygons, classes = [], []
    for polygon, index in truth * 2:
        shifted = polygon + np.tile(rng.normal(0, 3, 2), len(polygon) // 2)
        polygons.append(shifted.clip(0, SIDE))
        classes.append(index if rng.random() < 0.7 else int(rng.integers(3)))
    masks = [coco_mask.decode(rle(polygon)) for polygon in polygons]
    boxes = [[p[0::2].min(), p[1::2].min(), p[0::2].max(), p[1::2].max()] for p in polygons]
    instances = Instances((SIDE, SIDE))
    instances.pred_boxes = Boxes(torch.tensor(np.array(boxes).reshape(-1, 4), dtype=torch.float32))
    instances.scores = torch.tensor(rng.random(len(polygons)).round(1))
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    instances.pred_masks = torch.tensor(np.array(masks).reshape(-1, SIDE, SIDE), dtype=torch.bool)
    return instances


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[CfgNode, list[dict[str, Any]], list[Instances]]:
    """A config with validation data, the images, and what was found on each; one image has no objects."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    images, annotations, predictions = [], [], []
    for index in range(IMAGES):
        Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)).save(folder / f"{index}.png")
        images.append({"id": 100 - index, "file_name": f"{index}.png", "width": SIDE, "height": SIDE})
        truth = [(ellipse(rng), int(rng.integers(3))) for _ in range(6 if index else 0)]
        for polygon, class_ in truth:
            entry = annotation(polygon, list(CATEGORIES)[class_], crowd=rng.random() < 0.1)
            annotations.append(entry | {"id": len(annotations) + 1, "image_id": 100 - index})
        predictions.append(found(rng, truth))
    categories = [{"id": id_, "name": name} for id_, name in CATEGORIES.items()]
    data = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    (folder / "val.json").write_text(json.dumps(data))
    cfg = load_config(CONFIG, [*TINY, "OUTPUT_DIR", str(folder / "out")])
    own_data_config(cfg, val_json=str(folder / "val.json"), val_images=str(folder))
    return cfg, [{"image_id": image["id"]} for image in images], predictions


def metrics(
    cfg: CfgNode, name: str, images: list[dict[str, Any]], predictions: list[Instances], out: Path
) -> dict[str, dict[str, float]]:
    """All metrics of both tasks, by the named implementation."""
    cfg = cfg.clone()
    cfg.TEST.COCO_EVAL = name
    evaluator = build_evaluator(cfg, cfg.DATASETS.TEST[0], str(out))
    evaluator.reset()
    for image, instances in zip(images, predictions, strict=True):
        evaluator.process([image], [{"instances": instances}])
    return dict(evaluator.evaluate())


def assert_equal(ours: dict[str, dict[str, float]], theirs: dict[str, dict[str, float]]) -> None:
    assert ours.keys() == theirs.keys()
    for task, values in theirs.items():
        assert ours[task] == pytest.approx(values, rel=0, abs=1e-9, nan_ok=True), task


def test_both_implementations_give_the_same_numbers(evaluated: Any, tmp_path: Path) -> None:
    theirs, ours = (metrics(evaluated[0], name, *evaluated[1:], tmp_path / name) for name in NAMES)
    assert_equal(ours, theirs)
    assert set(theirs) == {"bbox", "segm"}
    for task in theirs.values():
        assert 10 < task["AP"] < 90
        assert {f"AP-{name}" for name in CATEGORIES.values()} <= set(task)
        assert math.isnan(task["AP-pear"])
        assert not any(math.isnan(task[key]) for key in ("APs", "APm", "APl", "AP-fig"))
    theirs_json, ours_json = (tmp_path / name / "coco_instances_results.json" for name in NAMES)
    assert json.loads(ours_json.read_text()) == json.loads(theirs_json.read_text())


NAMES = ("pycocotools", "faster-coco-eval")


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_images_changes_nothing(evaluated: Any, tmp_path: Path, name: str) -> None:
    cfg, images, predictions = evaluated
    assert_equal(
        metrics(cfg, name, images[::-1], predictions[::-1], tmp_path),
        metrics(cfg, name, images, predictions, tmp_path),
    )


def test_a_detector_that_finds_nothing_gets_the_same_answer(evaluated: Any, tmp_path: Path) -> None:
    cfg, images, predictions = evaluated
    nothing = [instances[:0] for instances in predictions]
    theirs, ours = (metrics(cfg, name, images, nothing, tmp_path) for name in NAMES)
    assert_equal(ours, theirs)
    assert math.isnan(ours["bbox"]["AP"])


def test_images_without_annotations_leave_their_results_only(
    evaluated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = FasterCOCOEvaluator(evaluated[0].DATASETS.TEST[0], output_dir=str(tmp_path), use_fast_impl=False)
    monkeypatch.setattr(evaluator, "_do_evaluation", False)  # as for a JSON without the key "annotations"
    evaluator.reset()
    evaluator.process(evaluated[1], [{"instances": instances} for instances in evaluated[2]])
    assert evaluator.evaluate() == {}
    found = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert {result["category_id"] for result in found} == {3, 7, 42}


@pytest.mark.parametrize(
    ("opts", "says"),
    [
        (["TEST.COCO_EVAL", "fast"], "TEST.COCO_EVAL 'fast': choose pycocotools, faster-coco-eval or detectron2"),
        (["TEST.COCO_EVAL", "faster-coco-eval"], "not installed; run pip install faster-coco-eval"),
        (["TEST.COCO_EVAL", "detectron2"], "without its operators"),
    ],
)
def test_what_is_not_there_is_refused(opts: list[str], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    monkeypatch.setattr(evaluation, "_has_compiled_operators", lambda: False)
    with pytest.raises(InputError, match=says):
        build_evaluator(load_config(CONFIG, opts), "any", "out")


def test_keypoints_are_left_to_pycocotools() -> None:
    cfg = load_config(CONFIG, ["TEST.COCO_EVAL", "faster-coco-eval", "MODEL.KEYPOINT_ON", "True"])
    with pytest.raises(InputError, match="for keypoints set pycocotools"):
        build_evaluator(cfg, "any", "out")


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_one_size_change_no_result(evaluated: Any, tmp_path: Path, workers: int) -> None:
    cfg = evaluated[0].clone()
    cfg.DATALOADER.NUM_WORKERS = workers
    model = build_model(cfg)
    results, found = [], []
    for batch in (1, 5):
        cfg.TEST.IMS_PER_BATCH, cfg.OUTPUT_DIR = batch, str(tmp_path / str(batch))
        results.append(Trainer.test(cfg, model))
        entries = json.loads((tmp_path / str(batch) / "inference" / "coco_instances_results.json").read_text())
        found.append(sorted(entries, key=lambda entry: (entry["image_id"], -entry["score"], entry["bbox"])))
    assert results[0]["bbox"] == pytest.approx(results[1]["bbox"], nan_ok=True)
    assert results[0]["segm"] == pytest.approx(results[1]["segm"], nan_ok=True)
    assert len(found[0]) == len(found[1]) > IMAGES
    for single, batched in zip(*found, strict=True):
        assert single["score"] == pytest.approx(batched["score"], abs=1e-4)
        assert single["bbox"] == pytest.approx(batched["bbox"], abs=0.05)


def test_evaluation_takes_the_named_number_format_and_training_goes_on_in_float32(
    evaluated: Any, tmp_path: Path
) -> None:
    cfg = evaluated[0].clone()
    cfg.TEST.AUTOCAST, cfg.OUTPUT_DIR = "bfloat16", str(tmp_path)
    model = build_model(cfg)
    dtypes = []
    model.backbone.trunk.register_forward_hook(lambda *call: dtypes.append(call[-1]["stage4"].dtype))
    Trainer.test(cfg, model)
    assert set(dtypes) == {torch.bfloat16}
    assert model.training
    model.backbone(torch.zeros(1, 3, 64, 64))
    assert dtypes[-1] == torch.float32


def crowded(folder: Path, objects: int, names: tuple[str, ...] = ("fig", "date", "plum")) -> tuple[CfgNode, Instances]:
    """A config with one image of many small objects in turn of these classes, and the perfect answer to it."""
    boxes = torch.tensor(
        [[14 * (i % 17), 14 * (i // 17), 14 * (i % 17) + 10, 14 * (i // 17) + 10] for i in range(objects)]
    )
    annotations = [
        {
            "id": i + 1,
            "image_id": 1,
            "category_id": 10 + i % len(names),
            "bbox": [*box[:2], 10, 10],
            "area": 100,
            "iscrowd": 0,
        }
        for i, box in enumerate(boxes.tolist())
    ]
    for entry in annotations:
        x, y, width, height = entry["bbox"]
        entry["segmentation"] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    Image.new("RGB", (SIDE, SIDE)).save(folder / "crowd.png")
    data = {"images": [{"id": 1, "file_name": "crowd.png", "width": SIDE, "height": SIDE}], "annotations": annotations}
    data["categories"] = [{"id": 10 + i, "name": name} for i, name in enumerate(names)]
    (folder / "val.json").write_text(json.dumps(data | {"info": {}}))
    cfg = load_config(CONFIG, [*TINY, "OUTPUT_DIR", str(folder / "out")])
    own_data_config(cfg, val_json=str(folder / "val.json"), val_images=str(folder))
    instances = Instances((SIDE, SIDE), pred_boxes=Boxes(boxes.float()), scores=torch.linspace(0.9, 0.5, objects))
    instances.pred_classes = torch.arange(objects) % len(names)
    return cfg, instances


@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_answer_of_more_than_100_objects_is_perfect(tmp_path: Path, name: str) -> None:
    cfg, answer = crowded(tmp_path, 240, ("fig",))
    cfg.TEST.DETECTIONS_PER_IMAGE = 300
    found = metrics(cfg, name, [{"image_id": 1}], [answer], tmp_path / "out")["bbox"]
    assert (found["AP"], found["AP50"], found["APs"]) == pytest.approx((100, 100, 100))
    assert set(found) == {"AP", "AP50", "AP75", "APs", "APm", "APl"}
    cfg.TEST.DETECTIONS_PER_IMAGE = 100
    assert (
        metrics(cfg, name, [{"image_id": 1}], [answer], tmp_path / "out")["bbox"]["AP"] < 45
    )  # COCO's rule, per class


@pytest.mark.parametrize("id_", ["a/1.png", "1", 2**53 + 1, -5])
def test_a_perfect_answer_is_perfect_whatever_the_image_is_called(tmp_path: Path, id_: int | str) -> None:
    cfg, answer = crowded(tmp_path, 20)
    data = json.loads((tmp_path / "val.json").read_text())
    data["images"].append(data["images"][0] | {"id": "1.0" if isinstance(id_, str) else 2**53})  # its neighbour
    data["images"][0]["id"] = id_
    for entry in data["annotations"]:
        entry["image_id"] = id_
    (tmp_path / "val.json").write_text(json.dumps(data))
    own_data_config(cfg, val_json=str(tmp_path / "val.json"), val_images=str(tmp_path))
    ids = [record["image_id"] for record in DatasetCatalog.get(cfg.DATASETS.TEST[0])]
    answers = [answer if found == id_ else answer[:0] for found in ids]
    found = metrics(cfg, "pycocotools", [{"image_id": found} for found in ids], answers, tmp_path / "out")
    assert found["bbox"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("name", NAMES)
def test_classes_are_mapped_by_name(tmp_path: Path, name: str) -> None:
    cfg, answer = crowded(tmp_path, 30)
    cfg.TEST.COCO_EVAL = name
    checkpoint = ["plum", "fig", "date"]
    answer.pred_classes = torch.tensor([checkpoint.index(("fig", "date", "plum")[i]) for i in answer.pred_classes])
    scores = []
    for names in (checkpoint, []):
        evaluator = build_evaluator(cfg, cfg.DATASETS.TEST[0], str(tmp_path / "out"))
        evaluator.take_classes(names, "model.pth")
        evaluator.reset()
        evaluator.process([{"image_id": 1}], [{"instances": answer}])
        scores.append(evaluator.evaluate()["bbox"]["AP"])
    assert scores[0] == pytest.approx(100)
    assert scores[1] < 1
    with pytest.raises(InputError, match=r"val\.json: its classes are not those of model\.pth"):
        evaluator.take_classes(["plum", "fig", "bus"], "model.pth")


def test_images_that_cannot_be_read_are_left_out_only_if_asked(
    evaluated: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg, images, predictions = evaluated
    cfg = cfg.clone()
    some = metrics(cfg, "pycocotools", images[:6], predictions[:6], tmp_path)
    cfg.INPUT.ON_BAD_IMAGE = "skip"
    left_out = metrics(cfg, "pycocotools", images[:6], predictions[:6], tmp_path)
    assert left_out["bbox"]["AP"] > some["bbox"]["AP"] + 5
    assert f"6 of {IMAGES} images are left out of the evaluation" in caplog.text


@pytest.mark.parametrize("nothing", [True, False])
def test_an_ap_of_0_explains_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture, nothing: bool) -> None:
    cfg, answer = crowded(tmp_path, 20)
    answer.pred_boxes = Boxes(torch.tensor([[100.0, 100, 250, 250]] * 20))
    found = metrics(cfg, "pycocotools", [{"image_id": 1}], [answer[:0] if nothing else answer], tmp_path / "out")
    assert not found["bbox"]["AP"] > 0
    (paragraph,) = [message for message in caplog.messages if "What may be the reason" in message]
    assert "MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.05" in paragraph
    if not nothing:
        assert "20 objects were found where 20 are annotated" in paragraph
        assert "the highest score is 0.900" in paragraph
        assert "smaller than 150 pixels, of the objects than 10, which points to" in paragraph
        assert "annotated are fig 7x, date 7x, plum 6x" in paragraph


def test_an_ap_above_0_needs_no_explanation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg, answer = crowded(tmp_path, 20)
    metrics(cfg, "pycocotools", [{"image_id": 1}], [answer], tmp_path / "out")
    assert "may be the reason" not in caplog.text
