"""AP of COCO's results by pycocotools."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from hiera_det.report.mistakes import loaded
from hiera_det.report.scores import details_of

__all__ = ["FORMS", "METRICS", "Scores", "average_precision"]

#: The key of a result that each task looks at.
FORMS = {"bbox": "bbox", "segm": "segmentation"}
#: detectron2's names of the first of COCO's twelve numbers.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class Scores(NamedTuple):
    """What an evaluation of boxes or masks gives.

    Attributes:
        metrics: `METRICS` and, of several classes, ``AP-<name>`` of each, in percent; NaN where it cannot be said.
        details: see `hiera_det.report.scores.details_of`.
        table: COCO's twelve numbers, for people.
    """

    metrics: dict[str, float]
    details: dict[str, Any]
    table: str


def average_precision(
    truth: Any, results: Sequence[dict[str, Any]], task: str, image_ids: Sequence[Any] | None = None
) -> Scores:
    """Evaluate results.

    Args:
        truth: pycocotools' ``COCO``.
        results: COCO's, by the ids of ``truth``; of none AP is 0.
        task: of `FORMS`.
        image_ids: the images that count; None for all.
    """
    from pycocotools.cocoeval import COCOeval

    evaluation, said = COCOeval(truth, loaded(truth, results, FORMS[task]), task), io.StringIO()
    if image_ids is not None:
        evaluation.params.imgIds = list(image_ids)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    with contextlib.redirect_stdout(said):
        evaluation.summarize()
    details = details_of(evaluation)
    metrics = {name: _percent(value) for name, value in zip(METRICS, evaluation.stats, strict=False)}
    names = [category["name"] for category in truth.loadCats(evaluation.params.catIds)]
    if len(names) > 1:
        by_class = zip(names, details["ap"][0], strict=True)
        metrics |= {f"AP-{name}": math.nan if value is None else value for name, value in by_class}
    return Scores(metrics, details, said.getvalue().rstrip())


def _percent(value: float) -> float:
    return 100 * float(value) if value >= 0 else math.nan  # COCO's -1: there is nothing to find
