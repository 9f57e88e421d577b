"""A small prediction, made by hand."""

from __future__ import annotations

import numpy as np

from hiera_det.predict.prediction import ArrayPrediction, Prediction

CATEGORIES = [{"id": 7, "name": "fig"}, {"id": 42, "name": "date"}]


def prediction(count: int = 2, masks: bool = True) -> Prediction:
    """A fig of 10x20 pixels, whose mask is half of it, and a date that ends outside."""
    boxes = np.array([[5, 5, 15, 25], [30, 30, 50, 45]], np.float32)[:count]
    inside = np.zeros((count, 40, 40), bool)
    inside[:, 5:15, 5:15] = True
    found = {
        "boxes": boxes,
        "scores": np.array([0.9, 0.4], np.float32)[:count],
        "classes": np.array([0, 1])[:count],
        "masks": inside if masks else None,
    }
    image = np.zeros((40, 40, 3), np.uint8)
    return ArrayPrediction(file="a.jpg", image=image, categories=CATEGORIES, found=found)
