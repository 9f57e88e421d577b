"""COCO evaluation: which implementation computes AP, by ``TEST.COCO_EVAL``, and what all of them share.

- ``pycocotools``, the default, is what published numbers were computed with. It is never replaced unasked, so that the
  same command gives the same numbers by the same code everywhere.
- ``faster-coco-eval`` is a package in C++ with the same interface and the same numbers.
- ``detectron2`` is its own C++ operator, where detectron2 was compiled.

All count as many objects an image as ``TEST.DETECTIONS_PER_IMAGE`` allows, if that is more than COCO's 100; take
classes by name; and say why AP may be 0, where it is.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import COCOevalMaxDets
from pycocotools.cocoeval import COCOeval

from hiera_det.d2.config.model_keys import scoring_node
from hiera_det.d2.data.datasets import dataset_categories
from hiera_det.d2.data.records import coco_api, source_of
from hiera_det.data.classes import listed, same_classes_order
from hiera_det.engine.log import LogStream
from hiera_det.errors import InputError, printable
from hiera_det.files import make_folder, write_atomically
from hiera_det.report.detection import DETAILS, RESULTS
from hiera_det.report.explain import why_zero
from hiera_det.report.scores import details_of

__all__ = ["Evaluator", "FasterCOCOEvaluator", "build_evaluator", "check_coco_eval", "check_test_classes"]

PYCOCOTOOLS, FASTER, COMPILED = "pycocotools", "faster-coco-eval", "detectron2"
#: What an evaluation leaves beside its results: the annotations where no JSON holds them.
TRUTH = "annotations.json"
#: Objects an image that COCO counts, the best first.
COCO_MAX_DETS = 100


def build_evaluator(cfg: CfgNode, dataset_name: str, output_dir: str) -> Evaluator:
    """The evaluator of boxes and masks that ``TEST.COCO_EVAL`` names.

    Args:
        cfg: the config.
        dataset_name: a registered data set.
        output_dir: folder for ``coco_instances_results.json``.

    Raises:
        InputError: see `check_coco_eval`.
    """
    check_coco_eval(cfg)
    kind = FasterCOCOEvaluator if cfg.TEST.COCO_EVAL == FASTER else Evaluator
    limit, fast = cfg.TEST.DETECTIONS_PER_IMAGE, cfg.TEST.COCO_EVAL == COMPILED
    evaluator = kind(
        dataset_name,
        output_dir=output_dir,
        max_dets_per_image=limit,
        use_fast_impl=fast,
        kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
    )
    evaluator.only_seen = cfg.INPUT.ON_BAD_IMAGE == "skip"
    heads = scoring_node(cfg.MODEL.META_ARCHITECTURE)
    threshold = cfg.MODEL[heads].SCORE_THRESH_TEST
    evaluator.facts.append(f"what scores less than MODEL.{heads}.SCORE_THRESH_TEST {threshold:g} is left out")
    return evaluator


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


def check_test_classes(cfg: CfgNode) -> None:
    """Refuse data sets of other classes than the first one's, hours before the first evaluation.

    Raises:
        InputError: both lists of names.
    """
    names = {name: [c["name"] for c in dataset_categories(name)] for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)}
    trained = cfg.DATASETS.TRAIN[0]
    for other in cfg.DATASETS.TRAIN[1:]:
        if names[other] != names[trained]:
            raise InputError(
                f"DATASETS.TRAIN: data set {other!r} has the classes {listed(names[other])}, and {trained!r} "
                f"{listed(names[trained])}: give both the same in one order"
            )
    for test in cfg.DATASETS.TEST:
        if names[trained] and names[test]:
            same_classes_order(names[trained], names[test], f"data set {trained!r}", f"data set {test!r}")


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


@contextmanager
def _without_annotations() -> Iterator[str]:
    """Name of a data set whose JSON lists nothing, for as long as detectron2 reads it."""
    name = "hiera_det_without_annotations"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "none.json"
        path.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
        MetadataCatalog.get(name).set(json_file=str(path))
        try:
            yield name
        finally:
            MetadataCatalog.remove(name)


def _plain(value: Any) -> Any:
    """What JSON has no form for: the runs that pycocotools makes of polygons, and NumPy's numbers."""
    return value.decode() if isinstance(value, bytes) else value.item()


class Evaluator(COCOEvaluator):
    """detectron2's evaluator of boxes and masks.

    Args:
        dataset_name: a registered data set.
        output_dir: folder for ``coco_instances_results.json`` and ``instances_predictions.pth``; None for none.
        max_dets_per_image: objects an image that count, the best first; at least COCO's 100.
        more: see `detectron2.evaluation.COCOEvaluator`.

    Attributes:
        facts: half sentences for the paragraph on an AP of 0.
        details: of each task, see `hiera_det.report.scores.details_of`.
        only_seen: evaluate on the images that there are predictions for, and leave others out.
        scoring: entered while AP is computed, which the first process does alone.
        must_write: files that cannot be written end the evaluation; else, as in a training, they cost a line.
    """

    def __init__(
        self, dataset_name: str, *, output_dir: str | None = None, max_dets_per_image: int | None = None, **more: Any
    ) -> None:
        limit = max(COCO_MAX_DETS, max_dets_per_image or 0)
        # detectron2 reads a data set's JSON for each evaluation anew: here it gets one of nothing to read.
        api = coco_api(dataset_name)
        with _without_annotations() if api else nullcontext(dataset_name) as source:
            super().__init__(source, output_dir=None, max_dets_per_image=limit, **more)
        if api:
            self._metadata, self._coco_api = MetadataCatalog.get(dataset_name), api
        self.facts: list[str] = []
        self.details: dict[str, dict[str, Any]] = {}
        self.only_seen, self.must_write = False, True
        self.scoring: Callable[[], AbstractContextManager[None]] = nullcontext
        self._folder = Path(output_dir) if output_dir else None
        self._order: tuple[int, ...] | None = None

    def take_classes(self, names: Sequence[str], source: str) -> None:
        """Take predictions for classes of these names, in the order of the model's indices.

        Args:
            names: of the checkpoint's classes; empty where they are not known, and are taken for the data set's.
            source: the checkpoint, for the message.

        Raises:
            InputError: they are not the data set's names.
        """
        own = self._metadata.get("thing_classes")
        if names and own:
            order = same_classes_order(names, own, source, str(self._metadata.get("json_file", self._metadata.name)))
            self._order = None if order == tuple(range(len(order))) else order
            if self._order:
                self._logger.info("the data set numbers the checkpoint's classes otherwise: mapped by name")

    def _eval_predictions(self, predictions: Sequence[dict[str, Any]], img_ids: list[int] | None = None) -> None:
        """Evaluate what all processes have predicted, and keep the metrics of each task."""
        results = list(itertools.chain.from_iterable(prediction["instances"] for prediction in predictions))
        tasks = self._tasks or self._tasks_from_predictions(results)
        self._restore_category_ids(results)
        self._save("instances_predictions.pth", lambda file: torch.save(predictions, file))
        self._save(RESULTS, lambda file: file.write(json.dumps(results, default=_plain).encode()))
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation.")
            return
        if self.only_seen and img_ids is None:
            img_ids = self._seen(predictions)
        with self.scoring():
            self._score(results, tasks, img_ids)
        self._save(DETAILS, lambda file: file.write(self._as_json(img_ids).encode(errors="surrogateescape")))

    def score(self, results: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
        """Evaluate results that have the JSON's ids: boxes, and masks where both sides have them."""
        self._results: OrderedDict[str, dict[str, float]] = OrderedDict()
        tasks = [task for task, key in (("bbox", "bbox"), ("segm", "segmentation")) if key in (results or [{}])[0]]
        without = sum(not annotation.get("segmentation") for annotation in self._coco_api.anns.values())
        if "keypoints" in (results or [{}])[0]:
            self._logger.warning("keypoints are not scored: the sigmas of their places stand in a config")
        if "segm" in tasks and without:
            self._logger.warning("masks are not scored: %d annotations have none", without)
            tasks.remove("segm")
        self._score(results, tasks or ["bbox"], None)
        if not results:  # detectron2 says NaN of none; COCO says 0 of one that hits nothing, which is no better
            miss = {"image_id": min(self._coco_api.imgs), "category_id": min(self._coco_api.cats), "score": 0.0}
            evaluated = self._evaluate([{**miss, "bbox": [0, 0, 0, 0]}], "bbox", None)
            self._results["bbox"] = self._derive_coco_results(evaluated, "bbox", class_names=self._class_names)
        return dict(self._results)

    def _score(self, results: Sequence[dict[str, Any]], tasks: Iterable[str], img_ids: list[int] | None) -> None:
        """Keep the metrics of each task."""
        for task in sorted(tasks):
            evaluated = self._evaluate(results, task, img_ids) if results else None
            self._results[task] = self._derive_coco_results(evaluated, task, class_names=self._class_names)
        if all(not scores["AP"] > 0 for scores in self._results.values()):
            self._logger.warning(why_zero(results, self._coco_api, self.facts))

    @property
    def _class_names(self) -> list[str] | None:
        """As a terminal shows them."""
        return [printable(name) for name in self._metadata.get("thing_classes") or ()] or None

    def _seen(self, predictions: Sequence[dict[str, Any]]) -> list[int] | None:
        """The images that there are predictions for; None where that is all."""
        seen = sorted({prediction["image_id"] for prediction in predictions})
        missing = len(self._coco_api.imgs) - len(seen)
        if not missing:
            return None
        self._logger.warning("%d of %d images are left out of the evaluation", missing, len(self._coco_api.imgs))
        return seen

    def _restore_category_ids(self, results: Sequence[dict[str, Any]]) -> None:
        """Put the JSON's category ids in the place of the model's indices."""
        contiguous = getattr(self._metadata, "thing_dataset_id_to_contiguous_id", None)
        ids = {index: id_ for id_, index in contiguous.items()} if contiguous else {}
        for result in results:
            index = self._order[result["category_id"]] if self._order else result["category_id"]
            result["category_id"] = ids.get(index, index)

    def _save(self, name: str, write: Callable[[IO[bytes]], object]) -> None:
        """Write a file of the output folder."""
        if not self._folder:
            return
        self._logger.info("Saving results to %s", self._folder / name)
        try:
            make_folder(str(self._folder), "the folder of results")
            write_atomically(self._folder / name, write, durable=False)
        except InputError as error:
            if self.must_write:
                raise
            self._logger.warning("%s; the evaluation goes on", error)

    def _as_json(self, img_ids: list[int] | None) -> str:
        """What a report is made from: where the data are, which images count (None: all), tables and curves of AP."""
        source = source_of(self._metadata.name)
        if self._folder and not source[0]:
            source = self._write_annotations(self._folder)
        places = dict(zip(("json", "images"), source, strict=True))
        return json.dumps({**places, "image_ids": img_ids, "tasks": self.details}, default=_plain)

    def _write_annotations(self, folder: Path) -> tuple[str, str]:
        """What a user's function gave, as a JSON beside the results; returns it and the folder of its images."""
        data = self._coco_api.dataset
        root = os.path.commonpath([os.path.dirname(os.path.abspath(image["file_name"])) for image in data["images"]])
        images = [image | {"file_name": os.path.relpath(image["file_name"], root)} for image in data["images"]]
        content = json.dumps({**data, "images": images}, default=_plain)
        self._save(TRUTH, lambda file: file.write(content.encode()))
        return str(folder / TRUTH), root

    def _evaluate(self, results: Sequence[dict[str, Any]], task: str, img_ids: list[int] | None) -> Any:
        """The evaluation of one task, "bbox", "segm" or "keypoints", by what ``params`` says."""
        # Where a result has a box, COCO's API takes the box's area for a mask's too.
        without = {"bbox"} if task == "segm" else set()
        copies = [{key: value for key, value in result.items() if key not in without} for result in results]
        with contextlib.redirect_stdout(LogStream(self._logger)):
            evaluation = self._implementation(self._coco_api, self._coco_api.loadRes(copies), task)
        if task != "keypoints":  # of which COCO counts 20
            evaluation.params.maxDets = self._max_dets_per_image
        elif self._kpt_oks_sigmas:
            evaluation.params.kpt_oks_sigmas = np.array(self._kpt_oks_sigmas)
        if img_ids is not None:
            evaluation.params.imgIds = img_ids
        with contextlib.redirect_stdout(LogStream(self._logger)):
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        self.details[task] = details_of(evaluation)
        return evaluation

    def _implementation(self, truth: Any, found: Any, task: str) -> Any:
        """Pycocotools' evaluation, or detectron2's."""
        if (
            self._max_dets_per_image[-1] != COCO_MAX_DETS and task != "keypoints"
        ):  # the others summarize the first 100 only
            return COCOevalMaxDets(truth, found, task)
        if self._use_fast_impl:
            from detectron2.evaluation.fast_eval_api import COCOeval_opt

            return COCOeval_opt(truth, found, task)
        return COCOeval(truth, found, task)


class FasterCOCOEvaluator(Evaluator):
    """The same, with AP computed by the package faster-coco-eval."""

    def _implementation(self, truth: Any, found: Any, task: str) -> Any:
        """The package's evaluation."""
        return _import_faster().COCOeval_faster(truth, found, task, print_function=print)
