"""COCO evaluation: which implementation computes AP, by ``TEST.COCO_EVAL``.

- ``pycocotools``, the default, is what published numbers were computed with. It is never replaced unasked, so that the
  same command gives the same numbers by the same code everywhere.
- ``faster-coco-eval`` is a package in C++ with the same interface and the same numbers.
- ``detectron2`` is its own C++ operator, where detectron2 was compiled.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import COCOEvaluator

from hiera_det.errors import InputError
from hiera_det.files import write_atomically

__all__ = ["FasterCOCOEvaluator", "build_evaluator", "check_coco_eval"]

PYCOCOTOOLS, FASTER, COMPILED = "pycocotools", "faster-coco-eval", "detectron2"


def build_evaluator(cfg: CfgNode, dataset_name: str, output_dir: str) -> COCOEvaluator:
    """The evaluator of boxes and masks that ``TEST.COCO_EVAL`` names.

    Args:
        cfg: the config.
        dataset_name: a registered data set.
        output_dir: folder for ``coco_instances_results.json``.

    Raises:
        InputError: see `check_coco_eval`.
    """
    check_coco_eval(cfg)
    kind = FasterCOCOEvaluator if cfg.TEST.COCO_EVAL == FASTER else COCOEvaluator
    return kind(dataset_name, output_dir=output_dir, use_fast_impl=cfg.TEST.COCO_EVAL == COMPILED)


def check_coco_eval(cfg: CfgNode) -> None:
    """Refuse an implementation that is unknown, not there, or cannot do what the model needs.

    Raises:
        InputError: in one line, with the way out.
    """
    name = cfg.TEST.COCO_EVAL
    if name not in (PYCOCOTOOLS, FASTER, COMPILED):
        raise InputError(f"TEST.COCO_EVAL {name!r}: choose {PYCOCOTOOLS}, {FASTER} or {COMPILED}")
    if name == FASTER:
        _import_faster()
        if cfg.MODEL.KEYPOINT_ON:
            raise InputError(f"TEST.COCO_EVAL {FASTER}: for boxes and masks only; for keypoints set {PYCOCOTOOLS}")
    if name == COMPILED and not _has_compiled_operators():
        raise InputError(f"TEST.COCO_EVAL {COMPILED}: it is installed without its operators; choose {FASTER}")


def _import_faster() -> Any:
    """The package faster_coco_eval."""
    try:
        import faster_coco_eval
    except ImportError:
        raise InputError(f"TEST.COCO_EVAL {FASTER}: not installed; run pip install {FASTER}") from None
    return faster_coco_eval


def _has_compiled_operators() -> bool:
    """Whether detectron2 was installed with its C++ operators; the pure-Python install has a stand-in that raises."""
    try:
        from detectron2 import _C

        return callable(_C.COCOevalEvaluateImages)
    except (ImportError, AttributeError, RuntimeError):
        return False


class FasterCOCOEvaluator(COCOEvaluator):
    """detectron2's evaluator of boxes and masks, with AP computed by the package faster-coco-eval."""

    def _eval_predictions(self, predictions: Sequence[dict[str, Any]], img_ids: list[int] | None = None) -> None:
        """Evaluate what all processes have predicted, and keep the metrics of each task.

        detectron2 takes the implementation from its own module's names, so all it does between the predictions and the
        metrics is done here.
        """
        results = list(itertools.chain.from_iterable(prediction["instances"] for prediction in predictions))
        tasks = self._tasks or self._tasks_from_predictions(results)
        self._restore_category_ids(results)
        self._save(results)
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation.")
            return
        self._logger.info("Evaluating predictions with %s ...", FASTER)
        names = self._metadata.get("thing_classes")
        for task in sorted(tasks):
            evaluated = self._evaluate(results, task, img_ids) if results else None
            self._results[task] = self._derive_coco_results(evaluated, task, class_names=names)

    def _restore_category_ids(self, results: Sequence[dict[str, Any]]) -> None:
        """Put the JSON's category ids in the place of indices."""
        if not hasattr(self._metadata, "thing_dataset_id_to_contiguous_id"):
            return
        ids = {index: id_ for id_, index in self._metadata.thing_dataset_id_to_contiguous_id.items()}
        for result in results:
            result["category_id"] = ids[result["category_id"]]

    def _save(self, results: Sequence[dict[str, Any]]) -> None:
        """Write ``coco_instances_results.json``."""
        if not self._output_dir:
            return
        path = Path(self._output_dir) / "coco_instances_results.json"
        self._logger.info("Saving results to %s", path)
        write_atomically(path, lambda file: file.write(json.dumps(results).encode()))

    def _evaluate(self, results: Sequence[dict[str, Any]], task: str, img_ids: list[int] | None) -> Any:
        """The package's evaluation of one task, "bbox" or "segm"."""
        # Where a result has a box, COCO's API takes the box's area for a mask's too.
        without = {"bbox"} if task == "segm" else set()
        copies = [{key: value for key, value in result.items() if key not in without} for result in results]
        coco = _import_faster().COCOeval_faster(
            self._coco_api, self._coco_api.loadRes(copies), task, print_function=print
        )
        coco.params.maxDets = self._max_dets_per_image
        if img_ids is not None:
            coco.params.imgIds = img_ids
        coco.run()
        return coco
