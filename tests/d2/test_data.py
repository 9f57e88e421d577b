"""Own data by path: registration, what it writes into the config, and what it refuses."""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.data.detection_utils import transform_instance_annotations
from detectron2.data.transforms import ResizeTransform
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image
from pycocotools import mask as coco_mask

from hiera_det.d2 import add_hiera_config
from hiera_det.d2.config.schedule import count_images
from hiera_det.d2.data.datasets import own_data_config, register_json
from hiera_det.d2.data.records import coco_api, compact_records
from hiera_det.d2.data.registered import check_registered
from hiera_det.d2.predict.evaluation import build_evaluator
from hiera_det.data.coco.check import check_coco_json
from hiera_det.data.coco.repair import repair_coco_json
from hiera_det.errors import InputError

WIDTH, HEIGHT = 16, 12
BOX, POLYGON = [2, 2, 8, 6], [[2, 2, 10, 2, 10, 8, 2, 8]]
RLE = {"size": [HEIGHT, WIDTH], "counts": [20, 8, WIDTH * HEIGHT - 28]}


def coco(**overrides: Any) -> dict[str, Any]:
    data: dict[str, Any] = {
        "info": {},
        "images": [
            {"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT},
            {"id": 2, "file_name": "b.png", "width": WIDTH, "height": HEIGHT},
        ],
        "annotations": [instance(10, 7), instance(11, 3)],
        "categories": [{"id": 7, "name": "fig"}, {"id": 3, "name": "date"}],
    }
    return {**data, **overrides}


def instance(id_: int, category_id: int, **overrides: Any) -> dict[str, Any]:
    fields = {"image_id": 1, "bbox": BOX, "segmentation": POLYGON, "area": 48, "iscrowd": 0}
    return {"id": id_, "category_id": category_id, **fields, **overrides}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The four arguments of own data, train and val alike; completed copies stay in the test's folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arguments = {}
    for split in ("train", "val"):
        images = tmp_path / split
        images.mkdir()
        for name in ("a.png", "b.png"):
            Image.new("RGB", (WIDTH, HEIGHT)).save(images / name)
        path = tmp_path / f"{split}.json"
        path.write_text(json.dumps(coco()))
        arguments |= {f"{split}_json": str(path), f"{split}_images": str(images)}
    return arguments


def mask_config() -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = True
    return cfg


def only(own: dict[str, str], split: str) -> dict[str, str]:
    return {key: value for key, value in own.items() if key.startswith(split)}


def test_config_follows_from_the_jsons(own: dict[str, str]) -> None:
    cfg = mask_config()
    own_data_config(cfg, **own)
    assert len(cfg.DATASETS.TRAIN) == len(cfg.DATASETS.TEST) == 1
    assert cfg.DATASETS.TRAIN != cfg.DATASETS.TEST
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == cfg.MODEL.RETINANET.NUM_CLASSES == 2
    assert cfg.INPUT.MASK_FORMAT == "polygon"
    assert cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS is False
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    assert metadata.thing_classes == ["date", "fig"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    assert (metadata.evaluator_type, metadata.json_file) == ("coco", own["val_json"])


def test_detectron2_loads_the_registered_data_with_negatives(own: dict[str, str]) -> None:
    cfg = mask_config()
    own_data_config(cfg, **own)
    dicts = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    assert [len(entry["annotations"]) for entry in dicts] == [2, 0]
    assert [a["category_id"] for a in dicts[0]["annotations"]] == [1, 0]
    assert Path(dicts[0]["file_name"]) == Path(own["train_images"]) / "a.png"


def test_records_are_those_of_detectron2s_own_loader(own: dict[str, str]) -> None:
    """In its order too, which sampling by seed depends on."""
    text = {"size": [HEIGHT, WIDTH], "counts": coco_mask.frPyObjects(RLE, HEIGHT, WIDTH)["counts"].decode()}
    data = coco(
        annotations=[
            instance(10, 7, keypoints=[1, 2, 2, 3, 4, 0]),
            instance(3, 3, image_id=2, segmentation=RLE),
            instance(4, 3, image_id=2, segmentation=text, iscrowd=1),
            instance(11, 3, segmentation=[POLYGON[0], [1.25, 1, 6, 1, 6, 4.5]]),
        ]
    )
    data["images"].reverse()
    Path(own["train_json"]).write_text(json.dumps(data))
    cfg = mask_config()
    own_data_config(cfg, **only(own, "train"))
    assert DatasetCatalog.get(cfg.DATASETS.TRAIN[0]) == load_coco_json(own["train_json"], own["train_images"], "theirs")


@pytest.mark.parametrize("filter_empty", [False, True])
@pytest.mark.parametrize("min_keypoints", [0, 1, 2])
def test_compact_records_are_those_of_the_list_and_filtered_as_detectron2_does(
    own: dict[str, str], filter_empty: bool, min_keypoints: int
) -> None:
    data = coco(
        annotations=[
            instance(1, 7, keypoints=[1, 2, 2, 3, 4, 0]),
            instance(2, 3, image_id=4, segmentation=RLE, keypoints=[1, 2, 2, 3, 4, 1]),
            instance(3, 3, image_id=3, iscrowd=1, segmentation=RLE),
            instance(4, 3, image_id=9, bbox=[0, 0, 0, 0], segmentation=[]),
            instance(5, 3, image_id=1),
        ]
    )
    data["images"] += [{"id": id_, "file_name": "a.png", "width": WIDTH, "height": HEIGHT} for id_ in (9, 4, 3)]
    Path(own["train_json"]).write_text(json.dumps(data))
    cfg = mask_config()
    own_data_config(cfg, **only(own, "train"))
    names = cfg.DATASETS.TRAIN
    compact = compact_records(names, filter_empty=filter_empty, min_keypoints=min_keypoints)
    assert compact is not None
    expected = get_detection_dataset_dicts(names, filter_empty=filter_empty, min_keypoints=min_keypoints)
    assert list(compact) == expected
    assert compact[-1] == expected[-1]
    assert compact.sizes.tolist() == [[record["height"], record["width"]] for record in expected]
    compact[0]["annotations"][0]["bbox"][0] = 99.0
    assert list(compact) == expected


def test_data_sets_of_other_loaders_are_not_compact(own: dict[str, str]) -> None:
    register_coco_instances("plain", {}, own["train_json"], own["train_images"])
    assert compact_records(["plain"], filter_empty=False) is None
    DatasetCatalog.remove("plain")
    MetadataCatalog.remove("plain")


def test_json_is_read_once_for_check_loader_counting_and_evaluations(
    own: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    real = io.open

    def opened(file: Any, *arguments: Any, **more: Any) -> Any:
        read.append(str(file))
        return real(file, *arguments, **more)

    for module in ("builtins", "io"):
        monkeypatch.setattr(f"{module}.open", opened)
    if kept := getattr(pathlib, "_NormalAccessor", None):  # Python 3.10's pathlib keeps io.open
        monkeypatch.setattr(kept, "open", staticmethod(opened))
    cfg = mask_config()
    add_hiera_config(cfg)
    own_data_config(cfg, **own)
    train, val = cfg.DATASETS.TRAIN[0], cfg.DATASETS.TEST[0]
    assert len(DatasetCatalog.get(train)) == len(DatasetCatalog.get(val)) == count_images(train) == 2
    for _ in range(2):
        assert perfect_ap(build_evaluator(cfg, val, "")) == pytest.approx(100)
    assert [path for path in read if path in own.values()] == [own["train_json"], own["val_json"]]


def perfect_ap(evaluator: COCOEvaluator) -> float:
    """Box AP of answers that are the objects of `coco`."""
    evaluator.reset()
    for image_id, classes in ((1, [1, 0]), (2, [])):
        found = Instances((HEIGHT, WIDTH))
        found.pred_boxes = Boxes(torch.tensor([[2.0, 2.0, 10.0, 8.0]] * len(classes)).reshape(-1, 4))
        found.scores = torch.ones(len(classes))
        found.pred_classes = torch.tensor(classes, dtype=torch.int64)
        evaluator.process([{"image_id": image_id}], [{"instances": found}])
    return float(evaluator.evaluate()["bbox"]["AP"])


def test_evaluation_of_what_was_read_is_that_of_the_file(own: dict[str, str]) -> None:
    cfg = mask_config()
    add_hiera_config(cfg)
    own_data_config(cfg, **only(own, "val"))
    theirs = COCOEvaluator(cfg.DATASETS.TEST[0], tasks=("bbox",), distributed=False, use_fast_impl=False)
    ours = build_evaluator(cfg, cfg.DATASETS.TEST[0], "")
    assert perfect_ap(ours) == perfect_ap(theirs) == pytest.approx(100)


def test_boxes_of_whole_numbers_keep_their_fractions_when_resized(own: dict[str, str]) -> None:
    cfg = mask_config()
    own_data_config(cfg, **only(own, "train"))
    box = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])[0]["annotations"][0]
    resize = ResizeTransform(HEIGHT, WIDTH, HEIGHT * 5 // 4, WIDTH * 5 // 4)
    moved = transform_instance_annotations(box, resize, (HEIGHT * 5 // 4, WIDTH * 5 // 4))
    assert moved["bbox"].tolist() == [2.5, 2.5, 12.5, 10]


def test_polygons_of_whole_numbers_keep_their_fractions_when_resized(own: dict[str, str]) -> None:
    data = json.loads(Path(own["train_json"]).read_text())
    data["annotations"][0]["segmentation"] = [[1, 1, 6, 1, 6, 4]]
    Path(own["train_json"]).write_text(json.dumps(data))
    cfg = mask_config()
    own_data_config(cfg, **own)
    (record,) = (entry for entry in get_detection_dataset_dicts(cfg.DATASETS.TRAIN) if len(entry["annotations"]) == 2)
    resize = ResizeTransform(HEIGHT, WIDTH, HEIGHT * 3 // 2, WIDTH * 3 // 2)
    annotation = transform_instance_annotations(record["annotations"][0], resize, (HEIGHT * 3 // 2, WIDTH * 3 // 2))
    assert annotation["segmentation"][0].tolist() == [1.5, 1.5, 9, 1.5, 9, 6]


def test_registering_again_changes_nothing_and_a_newer_file_gets_its_own_name(own: dict[str, str]) -> None:
    path, root = own["train_json"], own["train_images"]
    summary = check_coco_json(path, root)
    name = register_json("own", path, root, summary)
    assert name.startswith("own_train_")
    assert register_json("own", path, root, summary) == name
    assert register_json("own", path, own["val_images"], summary) != name
    os.utime(path, (1, 1))
    assert register_json("own", path, root, summary) != name


def test_another_process_registers_the_same_names(own: dict[str, str]) -> None:
    cfg = mask_config()
    own_data_config(cfg, **own)
    code = (
        "import json, sys; from detectron2.config import get_cfg\n"
        "from hiera_det.d2.data.datasets import own_data_config\n"
        "cfg = get_cfg(); own_data_config(cfg, **json.loads(sys.argv[1]), check_files=False)\n"
        "print(cfg.DATASETS.TRAIN[0], cfg.DATASETS.TEST[0])"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(own)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [cfg.DATASETS.TRAIN[0], cfg.DATASETS.TEST[0]]


@pytest.mark.parametrize(("split", "key", "other"), [("train", "TRAIN", "TEST"), ("val", "TEST", "TRAIN")])
def test_one_split_alone_empties_the_other(own: dict[str, str], split: str, key: str, other: str) -> None:
    cfg = mask_config()
    own_data_config(cfg, **only(own, split))
    assert len(cfg.DATASETS[key]) == 1
    assert cfg.DATASETS[other] == ()


def test_without_own_data_the_config_stays(own: dict[str, str]) -> None:
    cfg = mask_config()
    own_data_config(cfg)
    assert cfg == mask_config()


def test_rle_masks_set_bitmask(own: dict[str, str]) -> None:
    Path(own["val_json"]).write_text(json.dumps(coco(annotations=[instance(1, 3, segmentation=RLE)])))
    cfg = mask_config()
    own_data_config(cfg, **own)
    assert cfg.INPUT.MASK_FORMAT == "bitmask"


def test_boxes_only_need_mask_off(own: dict[str, str]) -> None:
    Path(own["train_json"]).write_text(json.dumps(coco(annotations=[instance(1, 3, segmentation=[])])))
    with pytest.raises(InputError, match=r"train.json: 1 of 1 annotations have no segmentation.*MODEL.MASK_ON False"):
        own_data_config(mask_config(), **own)
    cfg = get_cfg()
    own_data_config(cfg, **own)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2


def test_annotation_without_mask_among_others_is_named_and_can_be_left_out(own: dict[str, str], tmp_path: Path) -> None:
    path, images = own["train_json"], own["train_images"]
    Path(path).write_text(
        json.dumps(coco(annotations=[instance(1, 3), instance(2, 7, segmentation=[]), instance(3, 3)]))
    )
    with pytest.raises(InputError, match=r"1 of 3 annotations have no segmentation.*: annotation 2;.*--fix OUT.json"):
        own_data_config(mask_config(), **only(own, "train"))
    repair_coco_json(path, images, tmp_path / "fixed.json")
    own_data_config(mask_config(), str(tmp_path / "fixed.json"), images)


@pytest.mark.parametrize("segmentation", [[], None])
def test_annotation_with_neither_mask_nor_area_is_left_out_and_said(
    own: dict[str, str], segmentation: Any, caplog: pytest.LogCaptureFixture
) -> None:
    empty = instance(2, 7, segmentation=segmentation, bbox=[0, 0, 0, 0])
    Path(own["train_json"]).write_text(json.dumps(coco(annotations=[instance(1, 3), empty])))
    cfg = mask_config()
    own_data_config(cfg, **only(own, "train"))
    assert [len(record["annotations"]) for record in DatasetCatalog.get(cfg.DATASETS.TRAIN[0])] == [1, 0]
    assert "1 of 2 boxes have no area (width or height <= 0) and no mask: annotation 2" in caplog.text


def test_the_same_json_or_images_for_both_splits_are_said(
    own: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    own_data_config(mask_config(), **own)
    assert "images of" not in caplog.text
    own_data_config(mask_config(), **{**own, "val_images": own["train_images"]})
    assert f"has images of {own['train_json']}: 2 of 2 images" in caplog.text
    same = {**only(own, "train"), **{key.replace("train", "val"): path for key, path in only(own, "train").items()}}
    own_data_config(mask_config(), **same)
    assert "is the JSON of training too: 2 of 2 images" in caplog.text


def test_more_objects_than_the_detector_gives_are_said(own: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    Path(own["val_json"]).write_text(json.dumps(coco(annotations=[instance(i, 3) for i in range(1, 8)])))
    cfg = mask_config()
    own_data_config(cfg, **only(own, "val"))
    assert "TEST.DETECTIONS_PER_IMAGE" not in caplog.text
    cfg.TEST.DETECTIONS_PER_IMAGE = 5
    own_data_config(cfg, **only(own, "val"))
    assert "'a.png' has 7 objects, and TEST.DETECTIONS_PER_IMAGE is 5" in caplog.text


def test_image_ids_that_an_evaluator_mixes_up_are_refused_for_it(own: dict[str, str], tmp_path: Path) -> None:
    data = coco()
    for entry in data["images"]:
        entry["id"] = str(entry["id"])
    for entry in data["annotations"]:
        entry["image_id"] = "1"
    Path(own["val_json"]).write_text(json.dumps(data))
    cfg = mask_config()
    add_hiera_config(cfg)
    own_data_config(cfg, **only(own, "val"))
    cfg.TEST.COCO_EVAL = "faster-coco-eval"
    with pytest.raises(InputError, match=r"mixes up the image ids of .*val.json.*--fix OUT.json"):
        own_data_config(cfg, **only(own, "val"))
    repair_coco_json(own["val_json"], own["val_images"], tmp_path / "fixed.json")
    own_data_config(cfg, val_json=str(tmp_path / "fixed.json"), val_images=own["val_images"])


def test_what_is_no_image_is_left_to_the_loader_where_that_skips_it(own: dict[str, str]) -> None:
    (Path(own["train_images"]) / "b.png").write_text("<html>")
    cfg = mask_config()
    add_hiera_config(cfg)
    with pytest.raises(InputError, match=r"b\.png: cannot be read as an image"):
        own_data_config(cfg, **only(own, "train"))
    cfg.INPUT.ON_BAD_IMAGE = "skip"
    own_data_config(cfg, **only(own, "train"))


def test_equal_explicit_class_count_passes_and_explicit_settings_stay(own: dict[str, str]) -> None:
    cfg = mask_config()
    opts = ["MODEL.ROI_HEADS.NUM_CLASSES", "2", "INPUT.MASK_FORMAT", "bitmask"]
    opts += ["DATALOADER.FILTER_EMPTY_ANNOTATIONS", "True"]
    cfg.merge_from_list(opts)
    own_data_config(cfg, **own, opts=opts)
    assert cfg.INPUT.MASK_FORMAT == "bitmask"
    assert cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS is True


@pytest.mark.parametrize(
    ("opts", "says"),
    [
        (
            ["MODEL.ROI_HEADS.NUM_CLASSES", "3"],
            r"MODEL.ROI_HEADS.NUM_CLASSES 3 contradicts .*train.json, .* 2 categories",
        ),
        (["MODEL.RETINANET.NUM_CLASSES", "80"], "MODEL.RETINANET.NUM_CLASSES 80 contradicts"),
        (["DATASETS.TRAIN", "('x',)"], "DATASETS.TRAIN cannot be set together with --train-json"),
    ],
)
def test_contradicting_setting_is_refused(own: dict[str, str], opts: list[str], says: str) -> None:
    cfg = mask_config()
    cfg.merge_from_list(opts)
    with pytest.raises(InputError, match=says) as caught:
        own_data_config(cfg, **own, opts=opts)
    assert "\n" not in str(caught.value)


def test_polygon_format_for_rle_masks_is_refused(own: dict[str, str]) -> None:
    Path(own["train_json"]).write_text(json.dumps(coco(annotations=[instance(1, 3, segmentation=RLE)])))
    with pytest.raises(InputError, match=r"INPUT.MASK_FORMAT polygon contradicts .*train.json"):
        own_data_config(mask_config(), **own, opts=["INPUT.MASK_FORMAT", "polygon"])


@pytest.mark.parametrize(
    ("drop", "says"),
    [
        ("train_images", "train-json .*train.json needs --train-images"),
        ("val_json", "--val-images .*val needs --val-json"),
    ],
)
def test_half_a_pair_is_refused(own: dict[str, str], drop: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        own_data_config(mask_config(), **{**own, drop: None})


def test_missing_image_folder_and_other_classes_are_refused(own: dict[str, str]) -> None:
    with pytest.raises(InputError, match="absent: no such image folder"):
        own_data_config(mask_config(), **{**own, "train_images": own["train_images"] + "/absent"})
    categories = [{"id": 3, "name": "date"}, {"id": 7, "name": "Fig"}]
    Path(own["val_json"]).write_text(json.dumps(coco(categories=categories)))
    with pytest.raises(InputError, match="categories of train and val JSON differ"):
        own_data_config(mask_config(), **own)


def test_log_shows_the_class_table_and_the_negatives(own: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="hiera_det.data"):
        own_data_config(mask_config(), **only(own, "train"))
    assert ["3", "0", "1", "date"] in [line.split() for line in caplog.text.splitlines()]
    assert ["7", "1", "1", "fig"] in [line.split() for line in caplog.text.splitlines()]
    assert "1 training images without annotations are kept" in caplog.text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_evaluator_takes_a_json_without_info_area_iscrowd_and_with_id_0(own: dict[str, str], encoding: str) -> None:
    """Pycocotools alone stops at each of them, and counts a hit on annotation 0 as a miss."""
    data = coco(annotations=[instance(0, 3)])
    for key in ("area", "iscrowd", "segmentation"):
        del data["annotations"][0][key]
    del data["info"]
    path = Path(own["val_json"])
    path.write_text(json.dumps(data), encoding=encoding)
    cfg = get_cfg()
    own_data_config(cfg, **only(own, "val"))
    assert len(DatasetCatalog.get(cfg.DATASETS.TEST[0])) == 2
    evaluator = COCOEvaluator(cfg.DATASETS.TEST[0], tasks=("bbox",), distributed=False, use_fast_impl=False)
    evaluator.reset()
    for image_id, boxes in ((1, [[2.0, 2.0, 10.0, 8.0]]), (2, [])):
        found = Instances((HEIGHT, WIDTH))
        found.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
        found.scores = torch.ones(len(boxes))
        found.pred_classes = torch.zeros(len(boxes), dtype=torch.int64)
        evaluator.process([{"image_id": image_id}], [{"instances": found}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


def test_registered_names_are_looked_up_with_suggestions() -> None:
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("coco_2017_trian",)
    with pytest.raises(InputError, match=r"DATASETS.TRAIN: data set 'coco_2017_trian' .* did you mean coco_2017_train"):
        check_registered(cfg)
    check_registered(cfg, train=False)


def test_absent_builtin_data_name_the_variable_and_the_path(own: dict[str, str]) -> None:
    cfg = mask_config()
    own_data_config(cfg, **own)
    check_registered(cfg)
    Path(own["val_json"]).unlink()
    with pytest.raises(InputError, match=r"DATASETS.TEST: JSON .*val.json of .* set DETECTRON2_DATASETS"):
        check_registered(cfg)
    for image in Path(own["train_images"]).iterdir():
        image.unlink()
    Path(own["train_images"]).rmdir()
    with pytest.raises(InputError, match=r"DATASETS.TRAIN: image folder .*train of .* set DETECTRON2_DATASETS"):
        check_registered(cfg)


@pytest.fixture
def registered(own: dict[str, str], request: pytest.FixtureRequest) -> Iterator[str]:
    """The training JSON as a user registers it in Python."""
    name = "theirs_" + re.sub(r"\W", "_", request.node.name)
    register_coco_instances(name, {}, own["train_json"], own["train_images"])
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def by_name(name: str, key: str = "TRAIN") -> CfgNode:
    cfg = mask_config()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), ()
    cfg.DATASETS[key] = (name,)
    return cfg


def test_registered_json_is_checked_and_its_records_are_detectron2s(own: dict[str, str], registered: str) -> None:
    theirs = load_coco_json(own["train_json"], own["train_images"], registered)
    check_registered(by_name(registered))
    assert DatasetCatalog.get(registered) == theirs
    check_registered(by_name(registered))


@pytest.mark.parametrize("key", ["TRAIN", "TEST"])
def test_registered_json_with_a_mistake_is_refused(own: dict[str, str], registered: str, key: str) -> None:
    Path(own["train_json"]).write_text(json.dumps(coco(annotations=[instance(10, 7, bbox=[1, 2, 3])])))
    with pytest.raises(InputError, match="annotation 10: bbox"):
        check_registered(by_name(registered, key))


def test_registered_json_that_ends_the_evaluation_is_refused_before_the_training(
    own: dict[str, str], registered: str
) -> None:
    Path(own["train_json"]).write_text(json.dumps(coco(annotations=[instance(10, 7, area=None)])))
    check_registered(by_name(registered))
    with pytest.raises(InputError, match=r"DATASETS.TEST: .*train.json .*stumbles over \(no area\).*--fix OUT.json"):
        check_registered(by_name(registered, "TEST"))


def test_registered_classes_in_another_order_are_refused(own: dict[str, str]) -> None:
    register_coco_instances("swapped", {"thing_classes": ["fig", "date"]}, own["train_json"], own["train_images"])
    with pytest.raises(InputError, match=r"'swapped': it is registered with the classes \['fig', 'date'\]"):
        check_registered(by_name("swapped"))
    DatasetCatalog.remove("swapped")
    MetadataCatalog.remove("swapped")


def record(**fields: Any) -> dict[str, Any]:
    entry = {"bbox": BOX, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "segmentation": POLYGON}
    plain = {"file_name": "a.png", "image_id": 1, "height": HEIGHT, "width": WIDTH, "annotations": [entry]}
    return (
        plain
        | {key: value for key, value in fields.items() if key in plain}
        | {"annotations": [entry | fields["entry"]] if "entry" in fields else [entry]}
    )


def without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != key}


@pytest.fixture
def function() -> Iterator[Any]:
    """Registers a function that gives these records, as detectron2's tutorial does."""

    def register(records: Any, *classes: str) -> str:
        DatasetCatalog.register("function", lambda: records)
        MetadataCatalog.get("function").set(**({"thing_classes": list(classes)} if classes else {}))
        return "function"

    yield register
    DatasetCatalog.remove("function")
    MetadataCatalog.remove("function")


@pytest.mark.parametrize(
    ("key", "records", "says"),
    [
        ("TRAIN", [], r"must give a list of records, and gives \[\]"),
        ("TRAIN", None, "must give a list of records, and gives None"),
        ("TRAIN", [without(record(), "file_name")], r"record 0 \(None\) has no file_name"),
        ("TRAIN", [record(entry={"category_id": 2})], "has category_id 2, and there are 2 classes, counted from 0"),
        ("TRAIN", [record(entry={"category_id": -1})], "has category_id -1"),
        ("TRAIN", [record(entry={"segmentation": []})], "has no segmentation, but MODEL.MASK_ON is True"),
        ("TRAIN", [record() | {"annotations": [{"bbox": BOX, "category_id": 0}]}], "an annotation has no bbox_mode"),
        ("TEST", [without(record(), "image_id")], r"record 0 \(a\.png\) has no image_id"),
        ("TEST", [record(), record(file_name="b.png")], r"record 1 \(b\.png\) has the image_id 1 of another one"),
        ("TRAIN", [record(entry={"segmentation": RLE})], "has an RLE as segmentation: set INPUT.MASK_FORMAT bitmask"),
        ("TEST", [record(image_id="a"), record(image_id="b")], ""),
        ("TRAIN", [record(), record(entry={"segmentation": [], "iscrowd": 1})], ""),
    ],
)
def test_records_of_a_function_are_checked(function: Any, key: str, records: Any, says: str) -> None:
    cfg = by_name(function(records, "fig", "date"), key)
    with pytest.raises(InputError, match=says) if says else nullcontext():
        check_registered(cfg)


def test_a_data_set_that_is_trained_on_and_evaluated_is_told(function: Any, caplog: pytest.LogCaptureFixture) -> None:
    cfg = by_name(function([record()], "fig", "date"))
    check_registered(cfg)
    assert "says nothing" not in caplog.text
    cfg.DATASETS.TEST = cfg.DATASETS.TRAIN
    check_registered(cfg)
    assert "data set 'function' is trained on and evaluated: AP then says nothing" in caplog.text


def test_classes_to_evaluate_need_names(function: Any) -> None:
    cfg = by_name(function([record()]), "TEST")
    with pytest.raises(InputError, match=r"names of classes: MetadataCatalog.get\('function'\).thing_classes ="):
        check_registered(cfg)


def test_an_evaluation_leaves_the_records_of_a_function_as_they_are(function: Any) -> None:
    records = [record(entry={"keypoints": [3.5, 4.5, 2], "segmentation": dict(rle_bytes())})]
    before = copy.deepcopy(records)
    api = coco_api(function(records, "fig", "date"))
    assert records == before
    assert api.anns[1]["bbox"] == BOX
    assert [category["name"] for category in api.cats.values()] == ["fig", "date"]


def test_an_evaluation_of_masks_leaves_the_annotations_of_a_function_beside_its_results(
    function: Any, tmp_path: Path
) -> None:
    one = record(file_name=tmp_path / "below" / "a.png", image_id=np.int64(1), entry={"category_id": np.int64(0)})
    cfg = by_name(function([one], "fig", "date"), "TEST")
    add_hiera_config(cfg)
    evaluator = build_evaluator(cfg, "function", str(tmp_path))
    evaluator.reset()
    answer = Instances((HEIGHT, WIDTH), pred_boxes=Boxes([[2, 2, 10, 8]]), scores=torch.tensor([0.9]))
    answer.pred_classes = torch.tensor([0])
    answer.pred_masks = torch.from_numpy(
        coco_mask.decode(coco_mask.frPyObjects(POLYGON, HEIGHT, WIDTH))[..., 0]
    ).bool()[None]
    evaluator.process([{"image_id": np.int64(1)}], [{"instances": answer}])
    assert evaluator.evaluate()["segm"]["AP"] == pytest.approx(100)
    details = json.loads((tmp_path / "evaluation.json").read_text())
    assert details["images"] == str(tmp_path / "below")
    written = json.loads(Path(details["json"]).read_text())
    assert written["images"][0]["file_name"] == "a.png"
    assert coco_mask.area(written["annotations"][0]["segmentation"]) == 48


def test_processes_that_do_not_know_a_data_set_are_told_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hiera_det.d2.data.registered.process_count", lambda: 2)
    with pytest.raises(InputError, match=r"'mine' is not registered; what a script registers .* torchrun"):
        check_registered(by_name("mine"))


def rle_bytes() -> dict[str, Any]:
    encoded: dict[str, Any] = coco_mask.frPyObjects(RLE, HEIGHT, WIDTH)
    return encoded


def test_data_sets_with_a_loader_of_their_own_are_left_alone(own: dict[str, str]) -> None:
    def load() -> list[dict[str, Any]]:
        return []

    DatasetCatalog.register("custom", load)
    MetadataCatalog.get("custom").set(json_file=own["train_json"], image_root=own["train_images"])
    check_registered(by_name("custom"))
    assert DatasetCatalog["custom"] is load
    DatasetCatalog.remove("custom")
    MetadataCatalog.remove("custom")
