"""Rows of heads move with the names of their classes."""

from __future__ import annotations

import pytest
import torch

from hiera_det.data.class_rows import move_class_rows
from hiera_det.data.classes import match_classes

OLD, NEW = ("a", "b", "c"), ("c", "d", "a", "b")
MATCH = match_classes(OLD, NEW)


@pytest.mark.parametrize(
    ("name", "outer", "inner", "background"),
    [
        ("roi_heads.box_predictor.cls_score.weight", 1, 1, True),
        ("roi_heads.box_predictor.2.cls_score.bias", 1, 1, True),
        ("roi_heads.box_predictor.bbox_pred.weight", 1, 4, False),
        ("roi_heads.mask_head.predictor.bias", 1, 1, False),
        ("head.cls_score.weight", 9, 1, False),
        ("head.projection.bias", 1, 1, False),
    ],
)
def test_each_class_keeps_its_rows(name: str, outer: int, inner: int, background: bool) -> None:
    old = torch.randn(outer, len(OLD) + background, inner, 5)
    fresh = torch.randn(outer, len(NEW) + background, inner, 5)
    expected = torch.stack([old[:, 2], fresh[:, 1], old[:, 0], old[:, 1], *([old[:, 3]] if background else [])], 1)
    moved = move_class_rows({name: old.flatten(0, 2)}, {name: fresh.flatten(0, 2)}, MATCH, len(OLD))
    assert torch.equal(moved[name], expected.flatten(0, 2))


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("roi_heads.box_predictor.0.bbox_pred.weight", (4, 4)),
        ("roi_heads.mask_head.predictor.weight", (1, 1)),
        ("roi_heads.box_head.fc1.weight", (3, 4)),
        ("head.bbox_pred.weight", (36, 36)),
    ],
)
def test_what_all_classes_share_is_left_alone(name: str, rows: tuple[int, int]) -> None:
    old, fresh = (torch.randn(count, 5) for count in rows)
    assert move_class_rows({name: old}, {name: fresh}, MATCH, len(OLD)) == {}


def test_another_width_is_left_to_be_refused_or_dropped() -> None:
    name = "roi_heads.mask_head.predictor.weight"
    assert move_class_rows({name: torch.zeros(3, 5)}, {name: torch.zeros(4, 6)}, MATCH, len(OLD)) == {}
