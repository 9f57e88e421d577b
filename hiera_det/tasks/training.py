"""What the plain trainings do alike: from settings and the parts of a task to a loop, and through it."""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from hiera_det.engine.best import AUTO
from hiera_det.engine.callbacks import Callbacks
from hiera_det.engine.checkpoint import BEST, FINAL, goes_on
from hiera_det.engine.failures import explained
from hiera_det.engine.loader import Seeded, keyed_loader
from hiera_det.engine.loop import Loop, Task
from hiera_det.engine.optimizer import build_adamw
from hiera_det.engine.order import EpochOrder
from hiera_det.engine.processes import is_main_process, process_count
from hiera_det.engine.record import write_record
from hiera_det.engine.stop import Stop
from hiera_det.engine.talk import Length, Talk
from hiera_det.tasks.batches import collate
from hiera_det.tasks.recipes import Recipe
from hiera_det.tasks.results import write_results
from hiera_det.tasks.settings import CLASSES, Schedule, TaskSettings

__all__ = ["Parts", "is_resumed", "list_hash", "run_training"]

logger = logging.getLogger("hiera_det.training")

#: Settings that may name files or folders.
PATHS = ("train", "val", "images", "videos", "weights", "train_json", "train_images", "val_json", "val_images")


@dataclass(frozen=True)
class Parts:
    """What is special to one training.

    Attributes:
        task: its word in ``run.json``.
        model: on its device.
        fields: the arguments that build it, plain values.
        recipe: how it is trained.
        schedule: how long.
        samples: what it is trained on.
        workers: processes that read them.
        order: theirs.
        loss: the model and a batch to its mean loss.
        evaluate: called in every process with the number of epochs done; gives metrics, or none.
        evaluate_average: see `Task`.
        unchanged: what a checkpoint must agree in, besides what all trainings have.
        classes: of a classifier.
        following: the command that comes after the training.
        evaluate_epochs: epochs from one evaluation to the next.
        report: see `Task`.
        to_batch: samples to a batch.
    """

    task: str
    model: nn.Module
    fields: Mapping[str, Any]
    recipe: Recipe
    schedule: Schedule
    samples: Seeded
    workers: int
    order: EpochOrder
    loss: Callable[[nn.Module, Any], Tensor]
    evaluate: Callable[[int], Mapping[str, float]]
    evaluate_average: Callable[[int], Mapping[str, float]] | None = None
    unchanged: Mapping[str, Any] = field(default_factory=dict)
    classes: Sequence[str] = ()
    following: str = ""
    evaluate_epochs: int = 1
    report: Callable[[bool], object] = lambda is_best: None
    to_batch: Callable[[list[Any]], Any] = collate


def is_resumed(settings: TaskSettings) -> bool:
    """Whether the training goes on from a checkpoint.

    Raises:
        InputError: there is none to resume; or there is one, and nobody asked to go on.
    """
    return goes_on(str(settings.output), settings.resume, settings.auto_resume, settings.word("output"))


def run_training(
    settings: TaskSettings, parts: Parts, resumed: bool, stop: Stop, callbacks: Sequence[object] = ()
) -> int:
    """Train to the end and leave the results, in every process.

    Args:
        settings: of the training.
        parts: of the task.
        resumed: whether a checkpoint is gone on from.
        stop: entered by the caller.
        callbacks: see `hiera_det.engine.callbacks`.

    Returns:
        0, or the number of the signal that stopped it.

    Raises:
        InputError: a file or checkpoint cannot be used, a loss is not finite, or nothing can be saved.
    """
    recipe, schedule, iterations = parts.recipe, parts.schedule, parts.order.iterations
    task = Task(
        model=parts.model,
        build_optimizer=lambda _: build_adamw(parts.model, recipe.betas, recipe.weight_decay, recipe.layer_decay),
        loader=keyed_loader(parts.samples, parts.order, parts.workers, settings.device == "cuda", parts.to_batch),
        order=parts.order,
        loss=parts.loss,
        lr=schedule.lr,
        warmup=schedule.warmup_epochs * iterations,
        unchanged=settings.unchanged(recipe, schedule, parts.fields) | dict(parts.unchanged),
        extra={"config": dict(parts.fields)} | ({"classes": list(parts.classes)} if parts.classes else {}),
        evaluate=parts.evaluate,
        evaluate_average=parts.evaluate_average,
        evaluate_epochs=parts.evaluate_epochs,
        report=parts.report,
        allowed=settings.allow_changed,
        derived=settings.derived(),
        fixed={CLASSES: f"give it as {settings.word('weights')}, which takes over classes of equal names"},
    )
    told = Callbacks(callbacks)
    less = f"lower {settings.word('batch_size')} or raise {settings.word('accumulate')}"
    with explained(f"training, {parts.order.part} images of {settings.image_size} pixels at a time", less):
        loop = Loop(task, settings.train_settings(schedule, iterations), stop, told)
        if resumed:
            loop.resume()
        if is_main_process():
            asked = vars(settings) | {"num_gpus": process_count()}
            write_record(str(settings.output), parts.task, asked, PATHS)
        talk = _talk(settings, parts, loop)
        told.add(talk)
        try:
            stopped = loop.run()
        finally:
            talk.close()
    _log_bad_files(parts.samples, settings)
    if not stopped:
        write_results(loop, parts.fields, parts.classes)
        told.on_end(loop.iteration)
    return stopped


def _talk(settings: TaskSettings, parts: Parts, loop: Loop) -> Talk:
    order = parts.order
    length = Length(loop.settings.iterations, order.batch_size, order.iterations * order.batch_size)
    weights = BEST if loop.best.asked and loop.best.asked != AUTO else FINAL
    following = parts.following.format(weights=shlex.quote(os.path.join(settings.output, weights)))
    return Talk(length, loop.best, str(settings.output), sys.stderr, following)


def _log_bad_files(samples: Seeded, settings: TaskSettings) -> None:
    """How often another file took the place of one that cannot be read."""
    bad_images = getattr(getattr(samples.read, "read", samples.read), "bad_images", None)
    if bad_images and bad_images.count:
        told = "%d times another file took the place of one that cannot be read (%s skip)"
        logger.warning(told, bad_images.count, settings.word("on_bad_image"))


def list_hash(root: str, files: Sequence[str], labels: Sequence[int] = ()) -> str:
    """A short hash of the files below a folder, wherever that is, and their classes."""
    digest = hashlib.sha256()
    for index, file in enumerate(files):
        # Below the root, so that a data set may be moved between two runs.
        line = f"{file.removeprefix(root).lstrip(os.sep)}\t{labels[index] if labels else ''}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]
