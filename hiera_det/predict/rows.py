"""Objects of one image as COCO's results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

__all__ = ["area_of", "coco_rows"]


def coco_rows(
    image_id: Any,
    boxes: npt.NDArray[Any],
    scores: Sequence[float],
    category_ids: Sequence[Any],
    masks: Iterable[npt.NDArray[np.bool_]] | None = None,
) -> list[dict[str, Any]]:
    """``image_id``, ``category_id``, ``bbox`` (XYWH), ``score`` and, with masks, ``segmentation`` of N objects.

    Args:
        image_id: of the image.
        boxes: XYXY ``[N, 4]``.
        scores: N.
        category_ids: N.
        masks: N of ``[H, W]``, or None.
    """
    sides = np.asarray(boxes, np.float64).reshape(-1, 4).copy()
    sides[:, 2:] -= sides[:, :2]
    columns = (category_ids, sides.tolist(), scores)
    rows: list[dict[str, Any]] = [
        {"image_id": image_id, "category_id": id_, "bbox": box, "score": float(score)}
        for id_, box, score in zip(*columns, strict=True)
    ]
    for row, mask in zip(rows if masks is not None else (), () if masks is None else masks, strict=True):
        rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        row["segmentation"] = {"size": list(rle["size"]), "counts": rle["counts"].decode()}
    return rows


def area_of(row: dict[str, Any]) -> float:
    """Square pixels of an object: of its mask, else of its box."""
    if mask := row.get("segmentation"):
        return float(coco_mask.area(mask))
    return float(row["bbox"][2] * row["bbox"][3])
