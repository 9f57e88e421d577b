"""Batches of images of like size: which images go together, and that each goes exactly once."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from PIL import Image

from hiera_det.d2.config.load import load_config
from hiera_det.d2.data.batches import (
    MAX_PADDING,
    BucketSampler,
    build_test_loader,
    make_batches,
    model_input,
    padded_size,
)
from hiera_det.d2.data.datasets import own_data_config
from hiera_det.errors import InputError

CONFIG = str(Path(__file__).parents[2] / "configs" / "mask_rcnn_hiera_t_1x.yaml")
SMALL = ["INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "160", "DATALOADER.NUM_WORKERS", "0"]

#: Height and width: tall, wide, square, a sliver each way, and one as large as a photograph.
SHAPES = [(90, 60), (60, 90), (64, 64), (10, 300), (300, 10), (1, 1), (1944, 2592)]


def config(*opts: str) -> CfgNode:
    return load_config(CONFIG, [*SMALL, *opts])


def mixed_sizes(count: int) -> list[tuple[int, int]]:
    rng = random.Random(0)
    return [(32 * rng.randint(10, 42), 32 * rng.randint(10, 42)) for _ in range(count)]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 16])
@pytest.mark.parametrize("count", [0, 1, 7, 200])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_processes_together_see_each_image_exactly_once(batch_size: int, count: int, world_size: int) -> None:
    samplers = [BucketSampler(mixed_sizes(count), batch_size, rank, world_size) for rank in range(world_size)]
    for sampler in samplers:
        assert len(sampler) == len(list(sampler))
    batches = [batch for sampler in samplers for batch in sampler]
    assert sorted(index for batch in batches for index in batch) == list(range(count))
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    lengths = [len(sampler) for sampler in samplers]
    assert max(lengths) - min(lengths) <= 1


def test_little_is_padded() -> None:
    sizes = mixed_sizes(200)
    batches = make_batches(sizes, 8)
    for batch in batches:
        sides = np.array([sizes[index] for index in batch])
        assert len(batch) * sides.max(0).prod() <= MAX_PADDING * sides.prod(1).sum()
    assert len(batches) < 200
    pixels = [len(batch) * math.prod(np.array([sizes[index] for index in batch]).max(0)) for batch in batches]
    assert pixels == sorted(pixels, reverse=True)


def test_photographs_resized_for_a_detector_fill_their_batches() -> None:
    cfg = load_config(CONFIG)
    shapes = [(480, 640)] * 20 + [(640, 480)] * 10 + [(427, 640)] * 20 + [(375, 500)] * 5 + [(500, 333)] * 5
    batches = make_batches([padded_size(cfg, *shape) for shape in shapes], 4)
    assert len(batches) <= math.ceil(len(shapes) / 4) + 2


def test_images_of_one_size_keep_their_order() -> None:
    assert make_batches([(64, 96)] * 5, 2) == [[0, 1], [2, 3], [4]]
    assert make_batches([(64, 96), (32, 32), (96, 64)], 1) == [[0], [1], [2]]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shortest", ["64", "0"])
def test_the_size_is_the_one_that_the_trunk_gets(shape: tuple[int, int], shortest: str) -> None:
    cfg = config("INPUT.MIN_SIZE_TEST", shortest)
    resized = model_input(cfg, np.zeros((*shape, 3), np.uint8)).shape[1:]
    assert padded_size(cfg, *shape) == tuple(math.ceil(side / 32) * 32 for side in resized)
    assert padded_size(config("MODEL.HIERA.SQUARE_PAD", "256"), *shape) == (256, 256)


@pytest.fixture
def mixed(tmp_path: Path) -> CfgNode:
    """Six images of three shapes as validation data."""
    images, annotations = [], []
    for index in range(6):
        height, width = SHAPES[index % 3]
        Image.new("RGB", (width, height)).save(tmp_path / f"{index}.png")
        images.append({"id": 10 + index, "file_name": f"{index}.png", "width": width, "height": height})
        box = {"bbox": [2, 2, 8, 6], "area": 48, "segmentation": [[2, 2, 10, 2, 10, 8]], "iscrowd": 0}
        annotations.append(box | {"id": index + 1, "image_id": 10 + index, "category_id": 1})
    data = {"info": {}, "images": images, "annotations": annotations, "categories": [{"id": 1, "name": "fig"}]}
    (tmp_path / "val.json").write_text(json.dumps(data))
    cfg = config()
    own_data_config(cfg, val_json=str(tmp_path / "val.json"), val_images=str(tmp_path))
    return cfg


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2])
def test_the_loader_batches_like_with_like(
    mixed: CfgNode, monkeypatch: pytest.MonkeyPatch, workers: int, world_size: int
) -> None:
    mixed.TEST.IMS_PER_BATCH, mixed.DATALOADER.NUM_WORKERS = 2, workers
    monkeypatch.setattr(comm, "get_world_size", lambda: world_size)
    batches: list[list[dict[str, Any]]] = []
    for rank in range(world_size):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        loader = build_test_loader(mixed, mixed.DATASETS.TEST[0])
        assert len(loader) == 3 // world_size + (rank < 3 % world_size)
        batches += loader
    assert sorted(record["image_id"] for batch in batches for record in batch) == list(range(10, 16))
    assert all(first["image"].shape == second["image"].shape for first, second in batches)


def test_a_batch_of_one_is_detectron2s_own_loader(mixed: CfgNode) -> None:
    loader = build_test_loader(mixed, mixed.DATASETS.TEST[0])
    assert [[record["image_id"] for record in batch] for batch in loader] == [[id_] for id_ in range(10, 16)]


def test_what_cannot_be_batched_is_named() -> None:
    with pytest.raises(InputError, match=r"TEST\.IMS_PER_BATCH 0: "):
        build_test_loader(config("TEST.IMS_PER_BATCH", "0"), "any")
    DatasetCatalog.register("test_batches_no_sizes", lambda: [{"file_name": "a.png", "annotations": []}])
    MetadataCatalog.get("test_batches_no_sizes").thing_classes = ["fig"]
    try:
        with pytest.raises(InputError, match="'test_batches_no_sizes' has images without 'height'"):
            build_test_loader(config("TEST.IMS_PER_BATCH", "2"), "test_batches_no_sizes")
    finally:
        DatasetCatalog.remove("test_batches_no_sizes")
        MetadataCatalog.remove("test_batches_no_sizes")
