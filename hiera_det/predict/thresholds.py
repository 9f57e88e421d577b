"""Least scores by class: some classes are believed at a lower score than others."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from hiera_det.data.classes import listed
from hiera_det.data.coco.read import read_json
from hiera_det.errors import InputError

__all__ = ["least_score", "least_scores", "read_thresholds"]


def check_score(value: Any, name: str) -> float:
    """A least score as a number.

    Raises:
        InputError: it is none from 0 to 1.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0.0 <= float(value) <= 1.0:
        raise InputError(f"{name} {value}: scores are from 0 to 1")
    return float(value)


def least_score(threshold: Any, by_class: Mapping[str, float] | None) -> float:
    """The least of all scores that are asked for.

    Raises:
        InputError: one is none from 0 to 1, or ``by_class`` is no mapping.
    """
    if by_class is not None and not isinstance(by_class, Mapping):
        raise InputError(f'class_thresholds {by_class!r}: give classes and scores, {{"cat": 0.4}}')
    scores = [check_score(score, f"threshold of class {name!r}:") for name, score in (by_class or {}).items()]
    return min([check_score(threshold, "threshold"), *scores])


def least_scores(
    names: Sequence[str], threshold: float, by_class: Mapping[str, float] | None
) -> npt.NDArray[np.float64] | None:
    """The least score of each index, ``[classes]``, or None where it is the same for all.

    Args:
        names: of the classes, by index.
        threshold: of the classes that ``by_class`` does not name.
        by_class: by name.

    Raises:
        InputError: a class is none of these.
    """
    if not by_class:
        return None
    found = dict.fromkeys(names, threshold)
    for name, score in by_class.items():
        if name not in found:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the detector has {listed(names)}"
            raise InputError(f"threshold of class {name!r}: there is no such class; {hint}")
        found[name] = score
    return np.array([found[name] for name in names])


def read_thresholds(path: str) -> dict[str, float]:
    """Least scores by class of a JSON: ``{"cat": 0.4}``, or a run's ``threshold.json``.

    Raises:
        InputError: it cannot be read, or is no such object.
    """
    content = read_json(path)
    found = content.get("by_class", content) if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found:
        raise InputError(f'{path}: must be an object of classes and scores, {{"cat": 0.4}}, or a run\'s threshold.json')
    return {name: check_score(score, f"{path}: {name!r}:") for name, score in found.items()}
