"""Images a second that one core reads and augments for large-scale jitter, by the mapper and by detectron2's own way.

Both in turn, on images of COCO's size that are made here: 640x480, seven objects each, polygons or RLE.

Example:
    OMP_NUM_THREADS=1 python tests/data_speed.py
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from hiera_det.d2.config.load import load_config
from hiera_det.d2.data import fused, mapper
from hiera_det.d2.data.mapper import build_train_mapper
from hiera_det.engine.randomness import seeded

IMAGES, OBJECTS, POINTS, ROUNDS = 24, 7, 24, 5
WIDTH, HEIGHT = 640, 480


def records(folder: Path, rle: bool) -> list[dict[str, Any]]:
    """Records as detectron2 has them, with boxes as XYWH."""
    drawn = np.random.default_rng(0)
    found = []
    for number in range(IMAGES):
        file = folder / f"{number}.jpg"
        coarse = Image.fromarray(drawn.integers(256, size=(30, 40, 3), dtype=np.uint8))
        coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(file, quality=90)
        objects = [_object(drawn, rle) for _ in range(OBJECTS)]
        size = {"file_name": str(file), "width": WIDTH, "height": HEIGHT, "image_id": number}
        found.append({**size, "annotations": objects})
    return found


def _object(drawn: np.random.Generator, rle: bool) -> dict[str, Any]:
    """A blob of a size as in COCO."""
    radius = drawn.uniform(10, 120)
    angles = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    reach = radius * drawn.uniform(0.7, 1.0, POINTS)
    center = drawn.uniform(radius, (WIDTH - radius, HEIGHT - radius))
    points = center + reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    low, high = points.min(axis=0), points.max(axis=0)
    polygon = [points.reshape(-1).tolist()]
    mask = coco_mask.merge(coco_mask.frPyObjects(polygon, HEIGHT, WIDTH)) if rle else polygon
    box = [*low.tolist(), *(high - low).tolist()]
    return {"bbox": box, "bbox_mode": 1, "category_id": 0, "iscrowd": 0, "segmentation": mask}


def rate(train: Callable[[dict[str, Any]], Any], data: list[dict[str, Any]], number: int) -> float:
    """Images a second, all of them once."""
    start = time.perf_counter()
    for place, record in enumerate(data):
        with seeded(1000 * number + place):
            train(record)
    return len(data) / (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    for rle in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            data = records(Path(folder), rle)
            cfg = load_config("mask_rcnn_hiera_b", ["INPUT.MASK_FORMAT", "bitmask" if rle else "polygon"])
            train = build_train_mapper(cfg)
            rates: dict[str, list[float]] = {"plain": [], "fused": []}
            for number in range(ROUNDS):
                for name, can_fuse in (("plain", lambda augmentations: False), ("fused", fused.can_fuse)):
                    mapper.can_fuse = can_fuse
                    rates[name].append(rate(train, data, number))
        medians = {name: round(statistics.median(values), 1) for name, values in rates.items()}
        print(json.dumps({"masks": "RLE" if rle else "polygons", "images/s": medians}))


if __name__ == "__main__":
    main()
