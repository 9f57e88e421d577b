"""``threshold.json`` of a run: the score from which its detections are best taken, found at its last evaluation."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hiera_det.files import StrPath, write_atomically

__all__ = ["Threshold", "read_threshold", "write_threshold"]

THRESHOLD = "threshold.json"
#: The score where a run has none of its own.
USUAL = 0.5


class Threshold(NamedTuple):
    """A least score, and why it is that."""

    score: float
    reason: str


def write_threshold(folder: StrPath, score: float, f1: float, by_class: Mapping[str, float]) -> None:
    """Leave what an evaluation has found: the score of the best F1, that F1, and such scores of single classes."""
    content = {"threshold": score, "f1": round(f1, 4), "by_class": by_class}
    text = json.dumps(content, indent=1)
    write_atomically(Path(folder) / THRESHOLD, lambda file: file.write(text.encode()), durable=False)


def read_threshold(folder: StrPath) -> Threshold:
    """The score that an evaluation has left in a folder, or the usual one."""
    path = Path(folder) / THRESHOLD
    try:
        content = json.loads(path.read_bytes())
        score, f1 = float(content["threshold"]), float(content["f1"])
    except (OSError, ValueError, TypeError, KeyError):
        return Threshold(USUAL, f"the usual one: no evaluation has left a {THRESHOLD}")
    if not 0 <= score <= 1:
        return Threshold(USUAL, f"the usual one: {os.fspath(path)} is damaged")
    return Threshold(score, f"of the best F1, {f1:.2f}, at the last evaluation")
