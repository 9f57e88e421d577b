"""Predictions as supervision takes them, by the package itself."""

from __future__ import annotations

import numpy as np
import pytest
import supervision
from found import prediction


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("masks", [True, False])
def test_it_becomes_supervisions_detections(count: int, masks: bool) -> None:
    found = prediction(count, masks)
    detections = found.to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert len(detections) == count
    np.testing.assert_array_equal(detections.xyxy, found.boxes)
    np.testing.assert_array_equal(detections.class_id, found.classes)
    assert detections.data["class_name"].tolist() == ["fig", "date"][:count]
    assert (detections.mask is None) == (not masks)
    annotated = supervision.BoxAnnotator().annotate(found.image.copy(), detections)
    assert annotated.any() == bool(count)
