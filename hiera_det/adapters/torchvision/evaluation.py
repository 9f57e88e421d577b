"""AP of a detector of torchvision's, by pycocotools, and what a report is made of."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN

from hiera_det.adapters.torchvision.data import DetectionBatch, DetectionReader, collate_detection
from hiera_det.adapters.torchvision.predict import masks_of
from hiera_det.adapters.torchvision.saved import load_detector
from hiera_det.data.classes import same_classes_order
from hiera_det.data.coco.check import check_coco_json
from hiera_det.data.coco.records import CocoRecords, coco_of
from hiera_det.data.coco.splits import require_masks
from hiera_det.engine.loader import Seeded, unwrap
from hiera_det.engine.machine import workers_by_cores
from hiera_det.engine.processes import from_main, gathered, process_device
from hiera_det.engine.progress import evaluating
from hiera_det.engine.stop import Stop
from hiera_det.errors import InputError, printable
from hiera_det.files import make_folder, write_atomically
from hiera_det.predict.rows import coco_rows
from hiera_det.report.average_precision import average_precision
from hiera_det.report.detection import DETAILS, RESULTS
from hiera_det.report.explain import why_zero
from hiera_det.tasks.batches import eval_loader

__all__ = ["Evaluation", "evaluate_detector"]

logger = logging.getLogger("hiera_det.training")

#: Digits of a result after the point, as detectron2's own tools read them.
DIGITS = 4


@dataclass(frozen=True)
class Evaluation:
    """Evaluates a model on a JSON, in every process of the group.

    Attributes:
        model: a detector of torchvision's.
        loader: gives this process's images.
        json: the COCO JSON.
        images: its folder.
        category_ids: the JSON's, by label from 1 on.
        tasks: of "bbox" and "segm".
        folder: for the results, as detectron2's evaluation leaves them.
        device: the model's.
        stop: what ends it early.
    """

    model: nn.Module
    loader: Iterable[Any]
    json: str
    images: str
    category_ids: Sequence[int]
    tasks: Sequence[str]
    folder: Path
    device: torch.device
    stop: Stop

    def __call__(self, epoch: int = 0) -> dict[str, float]:
        """The metrics by detectron2's names, such as ``bbox/AP``, in percent; logs them, after so many epochs if told.

        Raises:
            InputError: an image cannot be read.
            StopRequested: a signal came, to whichever process.
        """
        own = self._predict()
        self.stop.settle(self.device)
        found = [image for part in gathered(own) for image in part]
        return from_main(lambda: self._score(epoch, sorted(found, key=lambda image: image[0])))

    def _predict(self) -> list[tuple[Any, list[dict[str, Any]]]]:
        """Ids of this process's images, and what was found on each."""
        self.model.eval()
        found = []
        for read in self.stop.cut(evaluating(self.loader)):
            if read is None:  # all of them are left out
                continue
            batch: DetectionBatch = unwrap(read).to(self.device)
            with torch.inference_mode():
                outputs = self.model(batch.images)
            found += [(id_, self._results(id_, one)) for id_, one in zip(batch.image_ids, outputs, strict=True)]
        return found

    def _results(self, image_id: Any, output: dict[str, Tensor]) -> list[dict[str, Any]]:
        """An image's objects as COCO's results."""
        ids = [self.category_ids[label - 1] for label in output["labels"].tolist()]
        masks = masks_of(output) if "segm" in self.tasks else None
        return coco_rows(image_id, output["boxes"].cpu().numpy(), output["scores"].tolist(), ids, masks)

    def _score(self, epoch: int, found: Sequence[tuple[Any, list[dict[str, Any]]]]) -> dict[str, float]:
        """AP, with what a report needs left in the folder."""
        truth, results = coco_of(self.json, self.images), [one for _, some in found for one in some]
        missing = len(truth.imgs) - len(found)
        if not found:
            raise InputError(f"{self.json}: none of its images can be read, so that nothing can be evaluated")
        if missing:
            logger.warning("%d of %d images are left out of the evaluation", missing, len(truth.imgs))
        seen = [image_id for image_id, _ in found] if missing else None
        metrics: dict[str, float] = {}
        after = f"epoch {epoch}: " if epoch else ""
        details = {}
        for task in self.tasks:
            scores = average_precision(truth, results, task, seen)
            logger.info("%s%s:\n%s", after, {"bbox": "boxes", "segm": "masks"}[task], scores.table)
            metrics |= {f"{task}/{name}": value for name, value in scores.metrics.items()}
            details[task] = scores.details
        said = [f"{printable(name)} {value:.2f}" for name, value in metrics.items() if math.isfinite(value)]
        logger.info("%s%s", after, ", ".join(said))
        if not any(metrics[f"{task}/AP"] > 0 for task in self.tasks):
            logger.warning(why_zero(results, truth))
        stored = {"json": self.json, "images": self.images, "image_ids": seen, "tasks": details}
        _save(self.folder, {RESULTS: results, DETAILS: stored})
        return metrics


def evaluate_detector(
    weights: str, json: str, images: str, folder: Path, device: str, batch_size: int = 1, workers: int | None = None
) -> dict[str, float]:
    """The metrics of a file that a training has left; see `Evaluation`.

    Args:
        weights: see `load_detector`.
        json: COCO JSON, whose classes have the names of the detector's.
        images: its folder.
        folder: for the results.
        device: ``cpu`` or ``cuda``.
        batch_size: images at a time.
        workers: processes that read images; None for as many as there are the cores for.

    Raises:
        InputError: the weights or the data cannot be used.
    """
    detector, val = load_detector(weights), check_coco_json(json, images)
    order = same_classes_order(detector.classes[1:], val.class_names, weights, json)
    tasks = ("bbox", "segm") if isinstance(detector.model, MaskRCNN) else ("bbox",)
    if "segm" in tasks:
        require_masks(val, "the detector finds masks", "give a JSON with masks, or train a detector without,")
    place = process_device(device)
    samples = Seeded(CocoRecords(json, images), DetectionReader(False, False, targets=False))  # type: ignore[arg-type]
    reading = workers_by_cores(workers, "workers")
    return Evaluation(
        model=detector.model.to(place),
        loader=eval_loader(samples, batch_size, reading, place.type == "cuda", collate_detection),
        json=json,
        images=images,
        category_ids=[val.category_ids[index] for index in order],
        tasks=tasks,
        folder=folder,
        device=place,
        stop=Stop(),
    )()


def _save(folder: Path, contents: dict[str, Any]) -> None:
    """Write JSONs; that they cannot be costs a line, and not the training."""
    try:
        make_folder(str(folder), "the folder of results")
        for name, content in contents.items():
            text = json.dumps(content).encode(errors="surrogateescape")
            write_atomically(folder / name, _writing(text), durable=False)
    except InputError as error:
        logger.warning("%s; the training goes on", error)


def _writing(text: bytes) -> Callable[[Any], object]:
    return lambda file: file.write(text)
