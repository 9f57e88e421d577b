"""Resize and crop in one (hiera_det/d2/data/fused.py), beside a resize of the whole image and a crop of its result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_speed import records

from hiera_det.d2.config.load import load_config
from hiera_det.d2.data import mapper
from hiera_det.d2.data.mapper import build_train_mapper
from hiera_det.engine.randomness import seeded

SIDE = 416  # below the images' width: all scales above a half crop


def samples(data: list[dict[str, Any]], rle: bool, mirrored: bool) -> list[dict[str, Any]]:
    flip = "horizontal" if mirrored else "none"
    keys = ["INPUT.LSJ.SIZE", SIDE, "INPUT.RANDOM_FLIP", flip, "INPUT.MASK_FORMAT", "bitmask" if rle else "polygon"]
    train = build_train_mapper(load_config("mask_rcnn_hiera_b", [*keys, "MODEL.HIERA.SQUARE_PAD", SIDE]))
    found = []
    for number, record in enumerate(data):
        with seeded(number):
            found.append(train(record))
    return found


@pytest.mark.parametrize("rle", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
def test_what_comes_out_is_that_of_the_plain_way_to_rounding(
    rle: bool, mirrored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = records(tmp_path, rle)[:10]
    fused = samples(data, rle, mirrored)
    never: Callable[[Any], bool] = lambda augmentations: False  # noqa: E731
    monkeypatch.setattr(mapper, "can_fuse", never)
    cropped = lost = 0
    for ours, theirs in zip(fused, samples(data, rle, mirrored), strict=True):
        assert ours["image"].shape == theirs["image"].shape
        difference = (ours["image"].int() - theirs["image"].int()).abs()
        assert difference.max() <= 2  # Pillow rounds after each of two passes
        assert difference.float().mean() < 0.1
        cropped += ours["image"].shape[-1] == SIDE
        ours, theirs = ours["instances"], theirs["instances"]
        assert ours.image_size == theirs.image_size
        assert torch.equal(ours.gt_classes, theirs.gt_classes)
        lost += len(data[0]["annotations"]) - len(ours)
        assert torch.allclose(ours.gt_boxes.tensor, theirs.gt_boxes.tensor, atol=1.0 if rle else 1e-4)
        if rle:
            assert ours.gt_masks.tensor.dtype == torch.bool
            assert (ours.gt_masks.tensor != theirs.gt_masks.tensor).float().mean() < 1e-3
            assert torch.equal(ours.gt_masks.get_bounding_boxes().tensor, ours.gt_boxes.tensor)
        else:
            pairs = zip(ours.gt_masks.polygons, theirs.gt_masks.polygons, strict=True)
            assert all(np.allclose(a, b) for mine, other in pairs for a, b in zip(mine, other, strict=True))
    assert cropped > 3
    assert lost > 1
