"""A few hundred mutated JSONs; the long form is ``python tests/data/coco/json_fuzz.py``."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from coco_data import sound
from json_fuzz import go_through, make_images, mutated

#: First annotations that went wrong once, in the check, in repair, or in what comes after.
KEPT: dict[str, dict[str, Any]] = {
    "repair takes the last polygon out": {"segmentation": [[2, 2, 8, 6]]},
    "coordinate that takes all memory": {"segmentation": [[64, 79, 64, 2**63, 67, 80]]},
    "integer that no double holds": {"bbox": [10**400, 1, 2, 3]},
    "ignore null": {"ignore": None},
    "keypoints of text": {"keypoints": ["a", "b", "c"]},
    "area of text": {"area": "800"},
    "crowd without mask": {"iscrowd": 1, "segmentation": []},
    "RLE without end": {"segmentation": {"size": [12, 16], "counts": "o" * 100_000}},
}
HAS_DETECTRON2 = importlib.util.find_spec("detectron2") is not None


@pytest.mark.parametrize("first", range(0, 300, 100))
def test_mutated_jsons_are_refused_in_one_line_or_read_by_all(tmp_path: Path, first: int) -> None:
    images = make_images(tmp_path)
    outcomes = set()
    for seed in range(first, first + 100):
        path = tmp_path / f"{seed}.json"
        path.write_bytes(mutated(seed))
        outcomes.add(go_through(path, images, with_detectron2=HAS_DETECTRON2 and seed % 2 == 0))
    assert outcomes == {"refused", "taken"}


@pytest.mark.parametrize("fields", KEPT.values(), ids=KEPT.keys())
@pytest.mark.parametrize("every", [False, True])
def test_what_went_wrong_once_is_refused_in_one_line_or_read_by_all(
    tmp_path: Path, fields: dict[str, Any], every: bool
) -> None:
    data = sound()
    for entry in data["annotations"] if every else data["annotations"][:1]:
        entry.update(fields)
    path = tmp_path / "set.json"
    path.write_text(json.dumps(data))
    go_through(path, make_images(tmp_path), with_detectron2=HAS_DETECTRON2)


def test_a_seed_makes_the_same_json_again() -> None:
    assert [mutated(seed) for seed in range(50)] == [mutated(seed) for seed in range(50)]
