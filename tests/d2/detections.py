"""A tiny detector's training by the command line, on data of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = """
MODEL.HIERA.EMBED_DIM 16 MODEL.HIERA.DEPTHS [1,1,1,1] MODEL.HIERA.DROP_PATH_RATE 0.3 MODEL.FPN.OUT_CHANNELS 16
MODEL.ROI_BOX_HEAD.CONV_DIM 16 MODEL.ROI_BOX_HEAD.FC_DIM 16 MODEL.ROI_MASK_HEAD.CONV_DIM 16 MODEL.DEVICE cpu
INPUT.MIN_SIZE_TRAIN (48,64,80) INPUT.MAX_SIZE_TRAIN 128 INPUT.MIN_SIZE_TEST 64 TEST.PICTURES 0
TEST.REPORT False SOLVER.SCALING none
"""
SMALL = TINY.split()
#: A tiny detector as the user of a LazyConfig writes it, in a file beside the leaf that it begins from.
LAZY_SMALL = """
from .mask_rcnn_hiera_t_100ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.update(out_channels=16, square_pad=64)
model.backbone.trunk.update(embed_dim=16, depths=[1, 1, 1, 1], global_blocks=[])
model.roi_heads.box_head.update(conv_dims=[16], fc_dims=[32])
model.roi_heads.mask_head.conv_dims = [16, 16]
model.proposal_generator.post_nms_topk = [50, 20]
for augmentation in dataloader.train.mapper.augmentations:
    if "crop_size" in augmentation:
        augmentation.crop_size = [64, 64]
    if "target_height" in augmentation:
        augmentation.update(target_height=64, target_width=64)
dataloader.test.mapper.augmentations[0].update(short_edge_length=64, max_size=64)
dataloader.train.num_workers = dataloader.test.num_workers = 0
dataloader.train.total_batch_size = 2
optimizer.lr = 1e-4
train.update(init_checkpoint="", max_iter=2, eval_period=0, pictures=1, report=False, device="cpu")
"""


def write_boxes(folder: Path) -> list[str]:
    """Ten images, wide and high, with a box each; returns the flags that name them for training and evaluation."""
    random = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(10):
        width, height = (96, 64) if number % 3 else (64, 96)
        pixels = random.integers(0, 80, (height, width, 3), dtype=np.uint8)
        x, y = (int(place) for place in random.integers(4, 24, 2))
        pixels[y : y + 30, x : x + 24] += 120
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number + 1, "file_name": f"{number}.png", "width": width, "height": height})
        box: dict[str, Any] = {"bbox": [x, y, 24, 30], "area": 720, "iscrowd": 0}
        box["segmentation"] = [[x, y, x + 24, y, x + 24, y + 30, x, y + 30]]
        annotations.append({"id": number + 1, "image_id": number + 1, "category_id": 1, **box})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "box"}]}
    (folder / "train.json").write_text(json.dumps(content))
    (folder / "val.json").write_text(json.dumps({**content, "info": {}}))
    flags = []
    for split in ("train", "val"):
        flags += [f"--{split}-json", str(folder / f"{split}.json"), f"--{split}-images", str(folder)]
    return flags
