"""``threshold.json`` of a run: the score from which its detections are best taken, found at its last evaluation.

``threshold_best.json`` is the one of the evaluation whose weights are kept as the best.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hiera_det.engine.checkpoint import BEST
from hiera_det.files import StrPath, write_atomically

__all__ = ["Threshold", "keep_for_best", "read_threshold", "write_threshold"]

THRESHOLD, OF_BEST = "threshold.json", "threshold_best.json"
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


def keep_for_best(folder: StrPath) -> None:
    """Note that the score in a folder, if there is one, is that of its best weights."""
    path = Path(folder) / THRESHOLD
    if path.is_file():
        content = path.read_bytes()
        write_atomically(Path(folder) / OF_BEST, lambda file: file.write(content), durable=False)


def read_threshold(folder: StrPath, weights: StrPath = "") -> Threshold:
    """The score that an evaluation has left in a folder, or the usual one.

    Args:
        folder: of the run.
        weights: the file that it is for; "" for the last.
    """
    of_best = Path(weights).name == BEST and (Path(folder) / OF_BEST).is_file()
    path = Path(folder) / (OF_BEST if of_best else THRESHOLD)
    try:
        content = json.loads(path.read_bytes())
        score, f1 = float(content["threshold"]), float(content["f1"])
    except (OSError, ValueError, TypeError, KeyError):
        return Threshold(USUAL, f"the usual one: no evaluation has left a {THRESHOLD}")
    if not 0 <= score <= 1:
        return Threshold(USUAL, f"the usual one: {os.fspath(path)} is damaged")
    return Threshold(score, f"of the best F1, {f1:.2f}, at {'their' if of_best else 'the last'} evaluation")
