"""A detector's ``report.html``: of what its last evaluation has left in the run's folder, and written after each."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.structures import BoxMode
from detectron2.utils import comm
from pycocotools.cocoeval import COCOeval

from hiera_det.d2.data.records import CocoRecords, coco_of
from hiera_det.d2.predict.evaluation import DETAILS, RESULTS
from hiera_det.d2.predict.pictures import draw_panels
from hiera_det.data.coco.read import read_json
from hiera_det.data.images import BadImageError
from hiera_det.engine.record import read_record
from hiera_det.errors import InputError
from hiera_det.files import StrPath
from hiera_det.report.data_section import data_section
from hiera_det.report.detector_report import DetectorReport
from hiera_det.report.mistakes import part_of_images
from hiera_det.report.page import Pair, Picture, check_report_packages, write_page
from hiera_det.report.run_report import curves_section, settings_sections, subtitle, write_run_report
from hiera_det.report.scores import details_of
from hiera_det.report.threshold import write_threshold

__all__ = ["ReportHook", "write_detector_report"]

logger = logging.getLogger("hiera_det.report")

#: Longest side of a picture in the report, in pixels.
SIDE = 480


def write_detector_report(folder: StrPath) -> Path:
    """Write a run's ``report.html`` and ``threshold.json``; without an evaluation the report has curves and settings.

    Raises:
        InputError: a package is missing, or the annotations that were evaluated on are.
        WriteError: the report cannot be written.
    """
    check_report_packages()
    inference = Path(folder) / "inference"
    if not (inference / RESULTS).is_file():
        return write_run_report(folder)
    asked = _asked(folder)
    stored = read_json(inference / DETAILS) if (inference / DETAILS).is_file() else {}
    json = str(stored.get("json") or asked.get("val_json") or "")
    images = str(stored.get("images") or asked.get("val_images") or "")
    if not os.path.isfile(json):
        raise InputError(f"{folder}: the annotations that were evaluated on are not there ({json}); put them back")
    truth, results = coco_of(json, images), read_json(inference / RESULTS)
    drawing = _Drawing(truth, results, CocoRecords(json, images))
    if stored.get("image_ids") is not None:  # images that cannot be read are left out, by INPUT.ON_BAD_IMAGE
        truth = part_of_images(truth, stored["image_ids"])
    report = DetectorReport(truth, results, stored.get("tasks") or _evaluated(truth, results))
    write_threshold(folder, *report.threshold, report.thresholds())
    splits = {
        "training": (asked.get("train_json") or "", asked.get("train_images") or ""),
        "evaluation": (json, images),
    }
    sections = [curves_section(folder), *report.sections(drawing.draw)]
    sections += [data_section(splits), *settings_sections(folder)]
    return write_page(folder, f"Run {Path(folder).resolve().name}", subtitle(folder), report.facts(), sections)


def _asked(folder: StrPath) -> Mapping[str, Any]:
    record = read_record(os.fspath(folder))
    return record.asked if record else {}


def _evaluated(truth: Any, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """AP of a run that has kept its detections alone, as those of earlier versions have."""
    details = {}
    for task, key in (("bbox", "bbox"), ("segm", "segmentation")):
        if results and key in results[0] and all(one.get(key) for one in truth.anns.values()):
            without = {"bbox"} if task == "segm" else set()
            plain = [{name: value for name, value in one.items() if name not in without} for one in results]
            with contextlib.redirect_stdout(io.StringIO()):
                evaluation = COCOeval(truth, truth.loadRes(plain), task)
                evaluation.evaluate()
                evaluation.accumulate()
            details[task] = details_of(evaluation)
    return details


class _Drawing:
    """Draws images of a JSON with their annotations and with detections."""

    def __init__(self, truth: Any, results: Sequence[dict[str, Any]], records: CocoRecords) -> None:
        self.truth, self.results, self.records = truth, results, records
        self.places = {id_: place for place, id_ in enumerate(sorted(truth.getImgIds()))}
        self.classes = {id_: place for place, id_ in enumerate(sorted(truth.getCatIds()))}
        self.names = [category["name"] for category in truth.loadCats(list(self.classes))]

    def draw(self, image_id: Any, objects: Mapping[int, str], detections: Mapping[int, str]) -> Pair | None:
        """See `hiera_det.report.detector_report.Draw`."""
        record = self.records[self.places[image_id]]
        annotations = [self._entry(one, objects.get(one["id"], "")) for one in self.truth.imgToAnns[image_id]]
        chosen = [(self.results[id_ - 1], remark) for id_, remark in detections.items()]
        chosen.sort(key=lambda pair: -pair[0]["score"])
        found = [self._entry(one, remark) for one, remark in chosen]
        try:
            panels = draw_panels(record | {"annotations": annotations}, found, self.names, SIDE)
        except BadImageError as error:
            logger.warning("%s: not shown in the report", error)
            return None
        wrong = sum(bool(remark) for remark in detections.values())
        captions = (
            f"annotated: {len(annotations)}, of them missed {len(objects)}",
            f"found: {len(found)}, of them wrong {wrong}",
        )
        pictures = [Picture.of(panel, caption) for panel, caption in zip(panels, captions, strict=True)]
        return Pair(self.truth.imgs[image_id]["file_name"], pictures)

    def _entry(self, one: Mapping[str, Any], remark: str) -> dict[str, Any]:
        """COCO's entry in detectron2's form, without keypoints, and with what is to stand after its class."""
        kept = {key: one[key] for key in ("bbox", "segmentation", "iscrowd", "score") if key in one}
        kept |= {"bbox_mode": BoxMode.XYWH_ABS, "category_id": self.classes[one["category_id"]], "remark": remark}
        return kept


class _Evaluated(Protocol):
    """What evaluates a training.

    Attributes:
        done: steps after which the last evaluation was.
    """

    done: int


class ReportHook(HookBase):  # type: ignore[misc]
    """Writes the report after each evaluation, in the main process, when metrics are written.

    Args:
        cfg: for ``TEST.REPORT`` and ``OUTPUT_DIR``.
        evaluation: of the training.
    """

    def __init__(self, cfg: CfgNode, evaluation: _Evaluated) -> None:
        self.cfg, self.evaluation = cfg, evaluation

    def after_step(self) -> None:
        """After an evaluation in the middle of the training."""
        if self.evaluation.done == self.trainer.finished_steps:
            self._write()

    def after_train(self) -> None:
        """After the last evaluation."""
        if self.trainer.finished_steps >= self.trainer.max_iter:
            self._write()

    def _write(self) -> None:
        """Write it unless a stop is asked for, who asked waits; what fails costs a line."""
        if not comm.is_main_process() or not self.cfg.TEST.REPORT or self.trainer.stop.requested:
            return
        try:
            logger.info("report: %s", write_detector_report(self.cfg.OUTPUT_DIR))
        except Exception as error:  # whatever it is, it is no reason for a training to end
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            logger.warning("the report could not be written: %s", reason)
