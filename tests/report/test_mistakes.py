"""What is right and wrong about detections: made by hand, so that every kind of mistake is there once."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hiera_det.report.mistakes import KINDS, best_threshold, curve_of, find_mistakes, match
from hiera_det.report.scores import details_of

CLASSES = {3: "fig", 7: "date"}


def coco(objects: list[tuple[int, int, list[float], bool]], images: int = 3) -> COCO:
    """Of objects as image, category id, box and crowd."""
    truth = COCO()
    annotations = [
        {"id": n, "image_id": i, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": int(crowd)}
        for n, (i, c, box, crowd) in enumerate(objects, start=1)
    ]
    truth.dataset = {
        "info": {},
        "images": [{"id": i, "file_name": f"{i}.png", "width": 200, "height": 200} for i in range(images)],
        "categories": [{"id": id_, "name": name} for id_, name in CLASSES.items()],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def found(*rows: tuple[int, int, list[float], float]) -> list[dict[str, Any]]:
    return [dict(zip(("image_id", "category_id", "bbox", "score"), row, strict=True)) for row in rows]


#: Of image 0 a fig that is found twice and a date that is found as a fig; of image 1 a date that nothing was found of,
#: a fig found badly, and a crowd; of image 2 nothing is there.
TRUTH = [
    (0, 3, [10, 10, 40, 40], False),
    (0, 7, [100, 100, 50, 50], False),
    (1, 7, [10, 10, 20, 20], False),
    (1, 3, [100, 100, 60, 60], False),
    (1, 3, [0, 180, 200, 20], True),
]
FOUND = found(
    (0, 3, [10, 10, 40, 42], 0.9),
    (0, 3, [11, 11, 40, 40], 0.8),
    (0, 3, [101, 100, 50, 50], 0.85),
    (1, 3, [125, 125, 60, 50], 0.7),
    (1, 3, [20, 182, 30, 16], 0.95),  # in the crowd
    (2, 7, [5, 5, 30, 30], 0.6),
    (2, 7, [90, 90, 30, 30], 0.1),
)


def test_every_kind_of_mistake_is_told() -> None:
    truth = coco(TRUTH)
    before = json.dumps(FOUND)
    mistakes = find_mistakes(truth, FOUND, match(truth, FOUND), 0.5)
    assert json.dumps(FOUND) == before
    kinds = dict(zip(mistakes.matches.ids.tolist(), mistakes.kinds.tolist(), strict=True))
    words = {id_: KINDS[kind] if kind >= 0 else "below" for id_, kind in kinds.items()}
    assert words == {1: "right", 2: "twice", 3: "other class", 4: "misplaced", 6: "background", 7: "below"}
    # rows: fig, date, background; columns: fig, date, missed
    assert mistakes.confusion.tolist() == [[1, 0, 1], [1, 0, 1], [2, 1, 0]]
    assert mistakes.mixed_up == {2: 0}
    assert mistakes.by_image.tolist() == [[1, 1, 2], [0, 2, 1], [0, 0, 1]]
    assert mistakes.order() == [1, 2, 0]


def test_the_threshold_is_that_of_the_best_f1() -> None:
    truth = coco(TRUTH[:2])
    results = found(
        (0, 3, [10, 10, 40, 40], 0.9),
        (0, 7, [100, 100, 50, 50], 0.6),
        (1, 3, [10, 10, 40, 40], 0.6),
        (1, 3, [60, 60, 40, 40], 0.5),
        (2, 3, [10, 10, 40, 40], 0.4),
    )
    score, f1 = best_threshold(match(truth, results))
    assert (score, f1) == (0.6, pytest.approx(2 * 2 / (3 + 2)))
    curve = curve_of(match(truth, results))
    assert curve.scores.tolist() == [0.9, 0.6, 0.5, 0.4]  # of equal scores all or none
    assert best_threshold(match(truth, results), 0) == (0.9, pytest.approx(1.0))


@pytest.mark.parametrize("results", [[], found((2, 3, [1, 1, 9, 9], 0.3))])
def test_where_nothing_is_right_the_threshold_is_the_usual_one(results: list[dict[str, Any]]) -> None:
    truth = coco(TRUTH)
    assert best_threshold(match(truth, results)) == (0.5, 0.0)
    mistakes = find_mistakes(truth, results, match(truth, results), 0.2)
    assert mistakes.missed.all()
    assert mistakes.confusion[:, -1].tolist() == [2, 2, 0]
    assert find_mistakes(coco([]), results, match(coco([]), results), 0.2).by_image.sum() == len(results)


def test_counts_agree_with_pycocotools_own_precision() -> None:
    rng = np.random.default_rng(0)
    objects, results = [], []
    for image in range(30):
        for _ in range(6):
            box = [*rng.uniform(0, 120, 2), *rng.uniform(10, 70, 2)]
            category = int(rng.choice(list(CLASSES)))
            objects.append((image, category, box, False))
            moved = [value + rng.normal(0, 3) for value in box]
            results.append((image, category if rng.random() < 0.8 else 7, moved, float(rng.random())))
    truth, rows = coco(objects, 30), found(*results)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes([dict(row) for row in rows]), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    details = details_of(evaluation)
    assert np.mean(details["ap"][0]) == pytest.approx(100 * evaluation.stats[0], abs=1e-3)
    assert np.mean(details["ap50"]) == pytest.approx(100 * evaluation.stats[1], abs=1e-3)
    matches = match(truth, rows)
    for category in range(2):
        curve = curve_of(matches, category)
        assert curve.recall[-1] == pytest.approx(evaluation.eval["recall"][0, category, 0, -1])
        # COCO's precision at a place of recall is the greatest from there on.
        places = np.linspace(0, 1, 101)
        own = [max(curve.precision[curve.recall >= place - 1e-12], default=0.0) for place in places]
        np.testing.assert_allclose(details["curves"]["0.5"][category], own, atol=1e-3)
