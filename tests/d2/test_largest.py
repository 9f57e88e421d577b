"""The largest batch of a training, and how many images fit at a time (hiera_det/d2/train/largest.py)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hiera_det.d2.config.setup import setup_config
from hiera_det.d2.train.largest import largest_batch, largest_part, with_largest_part
from hiera_det.data.shapes import ShapesPaths
from hiera_det.errors import InputError

Arguments = Callable[..., Any]
SIZES = [(64, 64), (64, 80), (40, 128), (100, 64)]  # height, width


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ShapesPaths:
    root = tmp_path_factory.mktemp("sizes")
    images, objects = [], []
    for number, (height, width) in enumerate(SIZES, start=1):
        Image.fromarray(np.full((height, width, 3), 40 * number, np.uint8)).save(root / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        box = {"bbox": [4, 4, 20, 20], "area": 400, "segmentation": [[4, 4, 24, 4, 24, 24, 4, 24]], "iscrowd": 0}
        objects.append({"id": number, "image_id": number, "category_id": 1, **box})
    path = root / "all.json"
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "box"}]}
    path.write_text(json.dumps(content))
    return ShapesPaths(path, root, path, root, path)


def test_the_largest_images_come_at_the_largest_size_and_of_one_orientation(
    tmp_path: Path, data: ShapesPaths, training_arguments: Arguments
) -> None:
    sizes = ["INPUT.MIN_SIZE_TRAIN", "(32, 64)", "INPUT.MAX_SIZE_TRAIN", "110"]
    cfg = setup_config(training_arguments(tmp_path, data, *sizes))
    # 64x80 stays; 40x128 would be 64x205 and becomes 34x110; 100x64 is the largest, and the only other high one 64x64
    shapes = [tuple(sample["image"].shape[1:]) for sample in largest_batch(cfg, 3)]
    assert shapes == [(100, 64), (64, 64), (100, 64)]
    assert "instances" in largest_batch(cfg, 1)[0]
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.LSJ.ENABLED, cfg.INPUT.LSJ.SIZE = True, 96
    assert largest_batch(cfg, 1)[0]["image"].shape[1:] == (96, 96)


def test_as_many_images_go_together_as_the_memory_allows(
    tmp_path: Path, data: ShapesPaths, training_arguments: Arguments, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = setup_config(training_arguments(tmp_path, data, "SOLVER.IMS_PER_BATCH", "6"))
    gib = 2**30
    for used, part in (([1, 2, 3, 5], 3), ([1, 2, 3, 4], 6), ([1, 5], 1)):  # of 1, 2, 3 and 6 images; there are 4 GiB
        measured = iter(used)
        with caplog.at_level(logging.INFO, "hiera_det.say"):
            assert largest_part(cfg, lambda measured=measured: (next(measured) * gib, 4 * gib)) == part
        count = f"SOLVER.AUTO_BATCH: {part} images at a time take {part if part < 6 else 4}.0 GB of 4.0 GB ("
        assert caplog.messages[-1].startswith(count)
        assert caplog.messages[-1].endswith(f": SOLVER.ACCUMULATE {6 // part}")


def test_a_cpu_keeps_its_parts_and_a_training_that_goes_on_those_that_were_found(
    tmp_path: Path, data: ShapesPaths, training_arguments: Arguments, caplog: pytest.LogCaptureFixture
) -> None:
    keys = ["SOLVER.AUTO_BATCH", "True", "SOLVER.IMS_PER_BATCH", "4"]
    cfg = setup_config(training_arguments(tmp_path, data, *keys))
    with caplog.at_level(logging.INFO, "hiera_det.say"):
        assert with_largest_part(cfg).SOLVER.ACCUMULATE == 1
    assert caplog.messages[-1:] == ["SOLVER.AUTO_BATCH is for GPUs: SOLVER.ACCUMULATE stays 1"]
    (tmp_path / "config.yaml").write_text(
        setup_config(training_arguments(tmp_path, data, "SOLVER.ACCUMULATE", "2")).dump()
    )
    assert with_largest_part(cfg, resumed=True).SOLVER.ACCUMULATE == 2
    with pytest.raises(InputError, match=r"SOLVER\.AUTO_BATCH True: tries one process at a time; set SOLVER\.PARALLEL"):
        setup_config(training_arguments(tmp_path, data, *keys, "SOLVER.PARALLEL", "fsdp"))
