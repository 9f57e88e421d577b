"""Training a detector of torchvision's on a COCO JSON, from settings to a report; detectron2 need not be installed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hiera_det.adapters.torchvision.settings import DETECTION, DetectorSettings
from hiera_det.data.classes import same_classes_order
from hiera_det.data.coco.schema import CocoSummary
from hiera_det.data.coco.splits import check_splits, require_masks
from hiera_det.engine.loader import Seeded
from hiera_det.engine.processes import process_device
from hiera_det.engine.randomness import derive, seed_all
from hiera_det.engine.session import run_in
from hiera_det.engine.stop import Stop
from hiera_det.extras import need
from hiera_det.report.detection import INFERENCE, tell_detector_report
from hiera_det.report.page import check_report_packages
from hiera_det.report.threshold import keep_for_best
from hiera_det.tasks.batches import eval_loader, order_of
from hiera_det.tasks.settings import CLASSES
from hiera_det.tasks.training import Parts, is_resumed, run_training

__all__ = ["Inputs", "read_inputs", "train"]

logger = logging.getLogger("hiera_det.training")


@dataclass(frozen=True)
class Inputs:
    """What a training starts from.

    Attributes:
        resumed: whether a checkpoint.
        train: the JSON to train on.
        val: that to evaluate on, if there is one.
    """

    resumed: bool
    train: CocoSummary
    val: CocoSummary | None


def read_inputs(settings: DetectorSettings) -> Inputs:
    """Check what the settings name.

    Raises:
        InputError: it cannot be used, or a package is missing.
    """
    for package, what in (
        ("torchvision", "the detector"),
        ("pycocotools", "AP"),
        ("tqdm", "the evaluation's progress"),
    ):
        need(package, what)
    check_report_packages()
    resumed = is_resumed(settings)
    limits: dict[str, Any] = {"max_pixels": settings.max_pixels, "skip_unreadable": settings.on_bad_image == "skip"}
    places = (settings.train_json, settings.train_images, settings.val_json, settings.val_images)
    train, val = check_splits(*places, **limits)
    assert train is not None
    for summary in (train, val) if "segm" in settings.tasks else ():
        if summary:
            way_out = f"give {settings.word('detector')} fasterrcnn"
            require_masks(summary, f"{settings.word('detector')} is {settings.detector}", way_out)
    return Inputs(resumed, train, val)


def train(settings: DetectorSettings, callbacks: Sequence[object] = ()) -> int:
    """Train and evaluate, in every process of the group; the log goes to stderr and ``log.txt``.

    Args:
        settings: of the training.
        callbacks: see `hiera_det.engine.callbacks`.

    Returns:
        0, or the number of the signal that stopped it.

    Raises:
        InputError: data, settings, weights or a checkpoint cannot be used.
    """
    return run_in(str(settings.output), lambda stop: _train(settings, stop, callbacks), settings.word("output"))


def _train(settings: DetectorSettings, stop: Stop, callbacks: Sequence[object]) -> int:
    from hiera_det.adapters.torchvision.data import collate_detection

    inputs = read_inputs(settings)
    records, samples = _samples(settings, inputs.train, True)
    size = settings.size or "base"
    recipe = settings.recipe(size, DETECTION)
    schedule = settings.schedule(recipe)
    order = order_of(settings, len(samples))
    seed_all(derive(settings.seed, 0))  # the same random weights in all processes
    model, fields = _build_model(settings, size, inputs, recipe.drop_path_rate)
    model.to(process_device(settings.device))
    workers = settings.reading()
    evaluate = partial(_evaluation, settings, inputs, model, workers, stop)
    parts = Parts(
        task="torchvision",
        model=model,
        fields=fields,
        recipe=recipe,
        schedule=schedule,
        samples=samples,
        workers=workers,
        order=order,
        loss=_loss,
        evaluate=evaluate(INFERENCE),
        evaluate_average=evaluate(f"{INFERENCE}_ema"),
        unchanged={CLASSES: list(inputs.train.class_names), "the files": records.digest()},
        classes=inputs.train.class_names,
        evaluate_epochs=settings.eval_epochs,
        report=partial(_report, str(settings.output), stop),
        to_batch=collate_detection,
    )
    return run_training(settings, parts, inputs.resumed, stop, callbacks)


def _samples(settings: DetectorSettings, summary: CocoSummary, train: bool) -> tuple[Any, Seeded]:
    """The records of a JSON, and what reads them."""
    from hiera_det.adapters.torchvision.data import DetectionReader
    from hiera_det.data.coco.records import CocoRecords

    records: Any = CocoRecords(summary.path, summary.image_root)
    reader = DetectionReader(train, "segm" in settings.tasks, settings.max_pixels, settings.bad_images())
    return records, Seeded(records, reader)


def _build_model(
    settings: DetectorSettings, size: str, inputs: Inputs, drop_path_rate: float
) -> tuple[nn.Module, dict[str, Any]]:
    """The detector, with a file's weights where no checkpoint follows, and the fields that build it again."""
    from hiera_det.adapters.torchvision.saved import build_detector

    classes = {"num_classes": len(inputs.train.class_names), "category_ids": list(inputs.train.category_ids)}
    fields = settings.model_fields(size) | classes
    weights = "" if inputs.resumed else settings.weights
    if not settings.weights:
        logger.info(
            "the trunk starts from random weights: %s names a file of pretrained ones", settings.word("weights")
        )
    more = {"drop_path_rate": drop_path_rate, "use_checkpoint": settings.use_checkpoint}
    return build_detector(fields, weights, **more), fields


def _evaluation(
    settings: DetectorSettings, inputs: Inputs, model: nn.Module, workers: int, stop: Stop, folder: str
) -> Any:
    """What measures AP after so many epochs, and leaves its results in a folder of the run."""
    from hiera_det.adapters.torchvision.data import collate_detection
    from hiera_det.adapters.torchvision.evaluation import Evaluation

    train, val = inputs.train, inputs.val
    if val is None:
        return _no_evaluation
    device = process_device(settings.device)
    _, samples = _samples(settings, val, False)
    order = same_classes_order(train.class_names, val.class_names, train.path, val.path)
    return Evaluation(
        model=model,
        loader=eval_loader(samples, settings.eval_batch_size, workers, device.type == "cuda", collate_detection),
        json=val.path,
        images=val.image_root,
        category_ids=[val.category_ids[index] for index in order],
        tasks=settings.tasks,
        folder=Path(settings.output) / folder,
        device=device,
        stop=stop,
    )


def _no_evaluation(epoch: int) -> Mapping[str, float]:
    return {}


def _loss(model: nn.Module, batch: Any) -> Tensor:
    """The sum of a detector's losses."""
    losses: dict[str, Tensor] = model(batch.images, batch.targets)
    total: Tensor = sum(losses.values(), start=next(iter(losses.values())).new_zeros(()))
    return total


def _report(folder: str, stop: Stop, is_best: bool) -> None:
    """Write the report, unless a stop is asked for: who asked waits."""
    if not stop.requested:
        tell_detector_report(folder)
        if is_best:
            keep_for_best(folder)
