"""AP of a results file: what an evaluation would say, without a model."""

from __future__ import annotations

import os
from typing import Any

from hiera_det.d2.config.load import load_config
from hiera_det.d2.data.datasets import own_data_config
from hiera_det.d2.predict.evaluation import COCO_MAX_DETS, build_evaluator
from hiera_det.d2.predict.results_read import read_results
from hiera_det.errors import InputError

__all__ = ["score_results"]


def score_results(
    results: str, val_json: str, coco_eval: str = "pycocotools", max_detections: int = COCO_MAX_DETS
) -> dict[str, dict[str, float]]:
    """Score existing results against a COCO JSON.

    Args:
        results: see `hiera_det.d2.predict.results_read`.
        val_json: the annotations; its images need not be there.
        coco_eval: see ``TEST.COCO_EVAL``.
        max_detections: objects an image and class that count, the best first; at least COCO's 100.

    Returns:
        the metrics of "bbox" and, where there are masks, "segm", by detectron2's names, in percent.

    Raises:
        InputError: the results or the JSON cannot be used; one line.
    """
    if max_detections < COCO_MAX_DETS:
        raise InputError(f"{max_detections} detections an image: COCO counts {COCO_MAX_DETS}; give at least as many")
    cfg = load_config("", ["TEST.COCO_EVAL", coco_eval, "TEST.DETECTIONS_PER_IMAGE", str(max_detections)])
    own_data_config(cfg, val_json=val_json, val_images=os.path.dirname(val_json) or ".", check_files=False)
    found = read_results(results, val_json)
    evaluator = build_evaluator(cfg, cfg.DATASETS.TEST[0], "")
    evaluator.facts.clear()  # no model's threshold was at work
    scores: dict[str, Any] = evaluator.score(found)
    return scores
