"""Training a detector of torchvision's on a COCO JSON, from settings to a report; detectron2 need not be installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hiera_det.adapters.torchvision.settings import DETECTION, DetectorSettings
from hiera_det.data.classes import same_classes_order
from hiera_det.data.coco.schema import CocoSummary
from hiera_det.data.coco.splits import check_splits, require_masks
from hiera_det.engine.loader import Seeded, unwrap
from hiera_det.engine.processes import process_device
from hiera_det.engine.stop import Stop
from hiera_det.engine.val_loss import measure_losses
from hiera_det.extras import need
from hiera_det.modeling.hiera import HieraBase
from hiera_det.report.detection import INFERENCE, tell_detector_report
from hiera_det.report.page import check_report_packages
from hiera_det.report.threshold import keep_for_best
from hiera_det.tasks.batches import eval_loader
from hiera_det.tasks.settings import CLASSES
from hiera_det.tasks.training import OF_CHECKPOINT, RANDOM, Parts, run_task

__all__ = ["Inputs", "read_inputs", "train"]


class Inputs(NamedTuple):
    """The JSON to train on, and that to evaluate on, if there is one."""

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
    limits: dict[str, Any] = {"max_pixels": settings.max_pixels, "skip_unreadable": settings.on_bad_image == "skip"}
    places = (settings.train_json, settings.train_images, settings.val_json, settings.val_images)
    train, val = check_splits(*places, **limits)
    assert train is not None
    for summary in (train, val) if "segm" in settings.tasks else ():
        if summary:
            way_out = f"give {settings.word('detector')} fasterrcnn"
            require_masks(summary, f"{settings.word('detector')} is {settings.detector}", way_out)
    return Inputs(train, val)


def train(settings: DetectorSettings, callbacks: Sequence[object] = ()) -> int:
    """Train and evaluate; see `run_task`."""
    return run_task(settings, read_inputs, _parts, callbacks)


def _parts(settings: DetectorSettings, inputs: Inputs, resumed: bool, stop: Stop) -> Parts:
    from hiera_det.adapters.torchvision.data import collate_detection

    records, samples = _samples(settings, inputs.train, train=True)
    size = settings.size or "base"
    recipe = settings.recipe(size, DETECTION)
    model, fields = _build_model(settings, size, inputs, resumed, recipe.drop_path_rate)
    evaluate = partial(_evaluation, settings, inputs, model, stop)
    splits = {"train": inputs.train, "val": inputs.val}
    return Parts(
        task="torchvision",
        model=model,
        fields=fields,
        recipe=recipe,
        samples=samples,
        loss=_loss,
        evaluate=evaluate(INFERENCE),
        evaluate_average=evaluate(f"{INFERENCE}_ema"),
        told={
            "data": "; ".join(f"{split} {_told(summary)}" for split, summary in splits.items() if summary),
            "model": f"torchvision's {settings.detector} on Hiera {size}",
            "weights": OF_CHECKPOINT if resumed else settings.weights or RANDOM,
            "images": f"shorter side {settings.image_size} pixels, longer at most {settings.longest}",
            "evaluation": "" if inputs.val else f"none: {settings.word('val_json')} is not given",
        },
        unchanged={CLASSES: list(inputs.train.class_names), "the files": records.digest()},
        classes=inputs.train.class_names,
        following="hiera-det evaluate --run {folder} --val-json JSON --val-images DIR",
        evaluate_epochs=settings.eval_epochs,
        report=partial(_report, str(settings.output), stop),
        to_batch=collate_detection,
    )


def _told(summary: CocoSummary) -> str:
    return f"{summary.num_images} images, {summary.num_annotations} objects, {summary.path}"


def _samples(settings: DetectorSettings, summary: CocoSummary, train: bool, targets: bool = True) -> tuple[Any, Seeded]:
    """The records of a JSON, and what reads them."""
    from hiera_det.adapters.torchvision.data import DetectionReader
    from hiera_det.data.coco.records import CocoRecords

    records: Any = CocoRecords(summary.path, summary.image_root)
    kind = {"train": train, "targets": targets, "masks": "segm" in settings.tasks}
    return records, Seeded(
        records, DetectionReader(**kind, max_pixels=settings.max_pixels, bad_images=settings.bad_images())
    )


def _build_model(
    settings: DetectorSettings, size: str, inputs: Inputs, resumed: bool, drop_path_rate: float
) -> tuple[nn.Module, dict[str, Any]]:
    """The detector, with a file's weights where no checkpoint follows, and the fields that build it again."""
    from hiera_det.adapters.torchvision.saved import build_detector

    classes = {"num_classes": len(inputs.train.class_names), "category_ids": list(inputs.train.category_ids)}
    fields = settings.model_fields(size) | classes
    weights = "" if resumed else settings.weights
    more = {"drop_path_rate": drop_path_rate, "use_checkpoint": settings.use_checkpoint}
    return build_detector(fields, weights, **more), fields


def _evaluation(
    settings: DetectorSettings, inputs: Inputs, model: nn.Module, stop: Stop, folder: str
) -> Callable[[int], Mapping[str, float]]:
    """What measures AP and losses after so many epochs, and leaves its results in a folder of the run."""
    from hiera_det.adapters.torchvision.data import collate_detection
    from hiera_det.adapters.torchvision.evaluation import Evaluation

    train, val = inputs
    if val is None:
        return lambda epoch: {}
    device, workers = process_device(settings.device), settings.reading()
    images, with_targets = (
        eval_loader(samples, settings.eval_batch_size, workers, device.type == "cuda", collate_detection)
        for _, samples in (_samples(settings, val, train=False, targets=targets) for targets in (False, True))
    )
    order = same_classes_order(train.class_names, val.class_names, train.path, val.path)
    precision = Evaluation(
        model=model,
        loader=images,
        json=val.path,
        images=val.image_root,
        category_ids=[val.category_ids[index] for index in order],
        tasks=settings.tasks,
        folder=Path(settings.output) / folder,
        device=device,
        stop=stop,
    )

    def losses(batch: Any) -> tuple[int, Mapping[str, Tensor]]:
        there = unwrap(batch).to(device) if batch else None  # none of its images can be read
        return (len(there.images), model(there.images, there.targets)) if there else (0, {})

    return lambda epoch: {**precision(epoch), **measure_losses(model, with_targets, losses, HieraBase, stop)}


def _loss(model: nn.Module, batch: Any) -> Tensor:
    """The sum of a detector's losses."""
    return torch.stack(list(model(batch.images, batch.targets).values())).sum()


def _report(folder: str, stop: Stop, is_best: bool) -> None:
    """Write the report, unless a stop is asked for: who asked waits."""
    if not stop.requested:
        tell_detector_report(folder)
        if is_best:
            keep_for_best(folder)
