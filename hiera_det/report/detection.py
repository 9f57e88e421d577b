"""A detector's ``report.html``, of what its last evaluation has left in the run's folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hiera_det.data.coco.read import read_json
from hiera_det.data.coco.records import CocoRecords, coco_of
from hiera_det.data.images import BadImageError
from hiera_det.engine.record import read_record
from hiera_det.errors import InputError
from hiera_det.files import StrPath
from hiera_det.report.average_precision import FORMS, average_precision
from hiera_det.report.data_section import data_section
from hiera_det.report.detector_report import DetectorReport
from hiera_det.report.mistakes import part_of_images
from hiera_det.report.page import Pair, Picture, check_report_packages, write_page
from hiera_det.report.panels import draw_panels
from hiera_det.report.run_report import curves_section, settings_sections, subtitle, write_run_report
from hiera_det.report.threshold import write_threshold

__all__ = ["DETAILS", "INFERENCE", "RESULTS", "tell_detector_report", "write_detector_report"]

logger = logging.getLogger("hiera_det.report")

#: What an evaluation leaves, and in which folder of the run: detections, and tables of AP.
INFERENCE, RESULTS, DETAILS = "inference", "coco_instances_results.json", "evaluation.json"
#: Longest side of a picture in the report, in pixels.
SIDE = 480


def tell_detector_report(folder: StrPath) -> None:
    """Write the report in a training, and log where it is; what fails costs a line."""
    try:
        logger.info("report: %s", write_detector_report(folder))
    except Exception as error:  # whatever it is, it is no reason for a training to end
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        logger.warning("the report could not be written: %s", reason)


def write_detector_report(folder: StrPath) -> Path:
    """Write a run's ``report.html`` and ``threshold.json``; without an evaluation the report has curves and settings.

    Raises:
        InputError: a package is missing, or the annotations that were evaluated on are.
        WriteError: the report cannot be written.
    """
    check_report_packages()
    inference = Path(folder) / INFERENCE
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
    if stored.get("image_ids") is not None:  # images that cannot be read may be left out
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
    found = {}
    for task, key in FORMS.items():
        if results and key in results[0] and all(one.get(key) for one in truth.anns.values()):
            found[task] = average_precision(truth, results, task).details
    return found


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
        """COCO's entry by the index of its class, without keypoints, and with what is to stand after its class."""
        kept = {key: one[key] for key in ("bbox", "segmentation", "iscrowd", "score") if key in one}
        return kept | {"category_id": self.classes[one["category_id"]], "remark": remark}
