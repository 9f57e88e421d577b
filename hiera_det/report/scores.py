"""What an evaluation knows beyond its twelve numbers: AP by class and size, and curves of precision over recall.

It is taken from the arrays of pycocotools' ``COCOeval``, or of what has the same interface, and is plain enough for a
JSON. Letters in shapes: K classes, A ranges of area, R = 101 places of recall from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CURVES", "SIZES", "details_of", "size_of"]

#: COCO's sizes of objects, with the areas in square pixels at which they end.
SIZES = {"small": 32.0**2, "medium": 96.0**2, "large": float("inf")}
#: Overlaps of which curves are kept.
CURVES = (0.5, 0.75)


def details_of(evaluation: Any) -> dict[str, Any]:
    """The tables and curves of an accumulated evaluation.

    Returns:
        ``areas``: A names, the first of which is "all"; ``ap``: ``[A][K]`` in percent; ``ap50``: ``[K]``; ``curves``:
        by overlap ``[K][R]``, precision from 0 to 1. What cannot be said, as of a class without objects, is None.
    """
    params = evaluation.params
    precision: Any = evaluation.eval["precision"][..., -1]  # [overlaps, R, K, A], -1 where it cannot be said
    precision = np.where(precision < 0, np.nan, precision)
    ap = 100 * precision.mean(axis=(0, 1))  # [K, A]
    curves = {}
    for overlap in CURVES:
        at = np.flatnonzero(np.isclose(params.iouThrs, overlap))
        if len(at):
            curves[f"{overlap:g}"] = precision[at[0], :, :, 0].T
    halves = curves.get("0.5", np.full((ap.shape[0], 1), np.nan))
    return {
        "areas": list(params.areaRngLbl),
        "ap": _plain(ap.T),
        "ap50": _plain(100 * halves.mean(axis=1)),
        "curves": {name: _plain(values) for name, values in curves.items()},
    }


def size_of(areas: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Which of `SIZES` some areas are, ``[N]``."""
    sizes: npt.NDArray[np.int64] = np.searchsorted(list(SIZES.values())[:-1], areas, side="right")
    return sizes


def _plain(values: Any) -> Any:
    """Nested lists, with None for NaN."""
    if isinstance(values, Sequence | np.ndarray):
        return [_plain(value) for value in values]
    return None if np.isnan(values) else round(float(values), 4)
