"""Evaluation of a trained detector's file: classes by name, test-time augmentation, and what an AP of 0 says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hiera_det.d2.config.load import load_config
from hiera_det.d2.data.datasets import own_data_config
from hiera_det.d2.predict.evaluation import check_test_classes
from hiera_det.d2.train.trainer import Trainer
from hiera_det.errors import InputError

#: The detector's classes are "fig" and "date", in this order.
NUMBERINGS = {"its own": {7: "fig", 42: "date"}, "the other way round": {1: "date", 2: "fig"}}


def val_config(run_folder: Path, folder: Path, categories: dict[int, str], *opts: str) -> CfgNode:
    """The trained detector's config with three noisy images to evaluate on."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(1, 4):
        Image.fromarray(rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 96, "height": 64})
        box = {"bbox": [2, 2, 8, 6], "area": 48, "segmentation": [[2, 2, 10, 2, 10, 8, 2, 8]], "iscrowd": 0}
        annotations.append(box | {"id": number, "image_id": number, "category_id": next(iter(categories))})
    named = [{"id": id_, "name": name} for id_, name in categories.items()]
    data = {"info": {}, "images": images, "annotations": annotations, "categories": named}
    (folder / "val.json").write_text(json.dumps(data))
    weights = ("MODEL.WEIGHTS", str(run_folder / "model_final.pth"), "OUTPUT_DIR", str(folder / "out"))
    cfg = load_config(str(run_folder / "config.yaml"), [*weights, "DATALOADER.NUM_WORKERS", "0", *opts])
    own_data_config(cfg, val_json=str(folder / "val.json"), val_images=str(folder))
    return cfg


def found_names(cfg: CfgNode, categories: dict[int, str]) -> list[tuple[Any, ...]]:
    """What was found, with the classes by name."""
    results = json.loads((Path(cfg.OUTPUT_DIR) / "inference" / "coco_instances_results.json").read_text())
    return [(r["image_id"], categories[r["category_id"]], round(r["score"], 5), r["bbox"][0]) for r in results]


def test_the_same_is_found_however_the_data_number_the_classes(run_folder: Path, tmp_path: Path) -> None:
    found = []
    for name, categories in NUMBERINGS.items():
        opts = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0")
        cfg = val_config(run_folder, tmp_path / name.replace(" ", "_"), categories, *opts)
        Trainer.evaluate_checkpoint(cfg, resume=False)
        found.append(found_names(cfg, categories))
    assert found[0] == found[1]
    assert {name for _, name, *_ in found[0]} == {"fig", "date"}


@pytest.mark.parametrize("categories", [{1: "fig", 2: "bus"}, {1: "fig"}, {1: "fig", 2: "date", 3: "plum"}])
def test_other_classes_are_refused_with_both_lists(
    run_folder: Path, tmp_path: Path, categories: dict[int, str]
) -> None:
    cfg = val_config(run_folder, tmp_path / "val", categories)
    with pytest.raises(InputError, match=r"its classes are not those of .*model_final\.pth") as caught:
        Trainer.evaluate_checkpoint(cfg, resume=False)
    assert str(list(categories.values())) in str(caught.value)
    assert "['fig', 'date'] in the checkpoint" in str(caught.value)


def test_an_ap_of_0_names_weights_threshold_and_scores(
    run_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = val_config(run_folder, tmp_path / "val", NUMBERINGS["its own"], "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.9")
    Trainer.evaluate_checkpoint(cfg, resume=False)
    (paragraph,) = [message for message in caplog.messages if "What may be the reason" in message]
    assert "nothing was found where 3 objects are annotated" in paragraph
    assert "SCORE_THRESH_TEST 0.9" in paragraph
    assert "125 of the model's 125 tensors came from" in paragraph


def test_test_time_augmentation_acts(run_folder: Path, tmp_path: Path) -> None:
    threshold, found = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"), []
    augmented = ("TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(64,)", "TEST.AUG.MAX_SIZE", "128")
    for number, opts in enumerate((threshold, (*threshold, *augmented))):
        cfg = val_config(run_folder, tmp_path / str(number), NUMBERINGS["the other way round"], *opts)
        assert set(Trainer.evaluate_checkpoint(cfg, resume=False)) == {"bbox", "segm"}
        found.append(found_names(cfg, NUMBERINGS["the other way round"]))
    assert all(found)
    assert found[0] != found[1]


def test_data_sets_of_other_classes_are_refused_before_training(tmp_path: Path) -> None:
    names = {"classes_train": ["fig", "date"], "classes_same": ["date", "fig"], "classes_other": ["fig", "bus"]}
    for name, classes in names.items():
        DatasetCatalog.register(name, list)
        MetadataCatalog.get(name).thing_classes = classes
    cfg = load_config("", [])
    cfg.DATASETS.TRAIN = ("classes_train",)
    try:
        cfg.DATASETS.TEST = ("classes_same",)
        check_test_classes(cfg)
        cfg.DATASETS.TEST = ("classes_other",)
        with pytest.raises(InputError, match="data set 'classes_other': its classes are not those of data set"):
            check_test_classes(cfg)
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("classes_train", "classes_same"), ()
        with pytest.raises(InputError, match=r"'classes_same' has the classes \['date', 'fig'\], and 'classes_train'"):
            check_test_classes(cfg)
    finally:
        for name in names:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
