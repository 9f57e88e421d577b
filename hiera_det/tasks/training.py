"""What the plain trainings do alike: from settings to the parts of a task, to a loop, and through it."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor, nn

from hiera_det.data.classes import listed
from hiera_det.engine.callbacks import Callbacks
from hiera_det.engine.checkpoint import goes_on
from hiera_det.engine.failures import explained
from hiera_det.engine.loader import Seeded, keyed_loader
from hiera_det.engine.loop import Loop, Task
from hiera_det.engine.optimizer import build_adamw
from hiera_det.engine.order import EpochOrder
from hiera_det.engine.overview import Learning, overview
from hiera_det.engine.processes import is_main_process, process_count, process_device
from hiera_det.engine.randomness import derive, seed_all
from hiera_det.engine.record import write_record
from hiera_det.engine.session import run_in
from hiera_det.engine.stop import Stop
from hiera_det.engine.talk import Length, Talk, say
from hiera_det.tasks.batches import collate, order_of
from hiera_det.tasks.recipes import Recipe
from hiera_det.tasks.results import write_results
from hiera_det.tasks.settings import CLASSES, Schedule, TaskSettings

__all__ = ["OF_CHECKPOINT", "RANDOM", "Parts", "is_resumed", "list_hash", "run_task"]

logger = logging.getLogger("hiera_det.training")

Settings = TypeVar("Settings", bound=TaskSettings)
Inputs = TypeVar("Inputs")

#: Whose weights a training starts with, where they are no file's.
OF_CHECKPOINT, RANDOM = "the checkpoint's", "random"
#: Settings that may name files or folders.
PATHS = ("train", "val", "images", "videos", "weights", "train_json", "train_images", "val_json", "val_images")


@dataclass(frozen=True)
class Parts:
    """What is special to one training.

    Attributes:
        task: its word in ``run.json``.
        model: anywhere; it goes to its device.
        fields: the arguments that build it, plain values.
        recipe: how it is trained.
        samples: what it is trained on.
        loss: the model and a batch to its mean loss.
        evaluate: called in every process with the number of epochs done; gives metrics, or none.
        told: of the screen before the first step, see `hiera_det.engine.overview.overview`.
        evaluate_average: see `Task`.
        unchanged: what a checkpoint must agree in, besides what all trainings have.
        classes: of a classifier or detector.
        following: the command that comes after the training; ``{weights}`` and ``{folder}`` are put in.
        evaluate_epochs: epochs from one evaluation to the next.
        report: see `Task`.
        to_batch: samples to a batch.
    """

    task: str
    model: nn.Module
    fields: Mapping[str, Any]
    recipe: Recipe
    samples: Seeded
    loss: Callable[[nn.Module, Any], Tensor]
    evaluate: Callable[[int], Mapping[str, float]]
    told: Mapping[str, str]
    evaluate_average: Callable[[int], Mapping[str, float]] | None = None
    unchanged: Mapping[str, Any] = field(default_factory=dict)
    classes: Sequence[str] = ()
    following: str = ""
    evaluate_epochs: int = 1
    report: Callable[[bool], object] = lambda is_best: None
    to_batch: Callable[[list[Any]], Any] = collate


def run_task(
    settings: Settings,
    read_inputs: Callable[[Settings], Inputs],
    parts_of: Callable[[Settings, Inputs, bool, Stop], Parts],
    callbacks: Sequence[object] = (),
) -> int:
    """Train to the end and leave the results, in every process of the group; the log goes to ``log.txt``.

    Args:
        settings: of the training.
        read_inputs: finds what they name.
        parts_of: settings, inputs, whether a checkpoint is gone on from, and what ends an evaluation early, to the
            parts of the task; random numbers are the same in all processes.
        callbacks: see `hiera_det.engine.callbacks`.

    Returns:
        0, or the number of the signal that stopped it.

    Raises:
        InputError: data, settings, weights or a checkpoint cannot be used, a loss is not finite, or nothing can be
            saved.
    """

    def run(stop: Stop) -> int:
        resumed = is_resumed(settings)
        inputs = read_inputs(settings)
        seed_all(derive(settings.seed, 0))  # the same random weights in all processes
        return _run(settings, parts_of(settings, inputs, resumed, stop), resumed, stop, Callbacks(callbacks))

    return run_in(str(settings.output), run, settings.word("output"))


def is_resumed(settings: TaskSettings) -> bool:
    """Whether the training goes on from a checkpoint.

    Raises:
        InputError: there is none to resume; or there is one, and nobody asked to go on.
    """
    return goes_on(str(settings.output), settings.resume, settings.auto_resume, settings.word("output"))


def _run(settings: TaskSettings, parts: Parts, resumed: bool, stop: Stop, told: Callbacks) -> int:
    """See `run_task`."""
    order, schedule = order_of(settings, len(parts.samples)), settings.schedule(parts.recipe)
    parts.model.to(process_device(settings.device))
    less = f"lower {settings.word('batch_size')} or raise {settings.word('accumulate')}"
    with explained(f"training, {order.part} images of {settings.image_size} pixels at a time", less):
        task = _task(settings, parts, order, schedule)
        loop = Loop(task, settings.train_settings(schedule, order.iterations), stop, told)
        if resumed:
            loop.resume()
        length = Length(loop.settings.iterations, order.batch_size, order.iterations * order.batch_size)
        talk = Talk(length, loop.best, str(settings.output), sys.stderr, parts.following)
        told.add(talk)
        if is_main_process():
            asked = vars(settings) | {"num_gpus": process_count()}
            write_record(str(settings.output), parts.task, asked, PATHS)
            say.info(_overview(settings, parts, loop, length))
        try:
            stopped = loop.run()
        finally:
            talk.close()
    _log_bad_files(parts.samples, settings)
    if not stopped:
        write_results(loop, parts.fields, parts.classes)
        told.on_end(loop.iteration)
    return stopped


def _task(settings: TaskSettings, parts: Parts, order: EpochOrder, schedule: Schedule) -> Task:
    recipe, pin = parts.recipe, settings.device == "cuda"
    return Task(
        model=parts.model,
        build_optimizer=lambda _: build_adamw(parts.model, recipe.betas, recipe.weight_decay, recipe.layer_decay),
        loader=keyed_loader(parts.samples, order, settings.reading(), pin, parts.to_batch),
        order=order,
        loss=parts.loss,
        lr=schedule.lr,
        warmup=schedule.warmup_epochs * order.iterations,
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


def _overview(settings: TaskSettings, parts: Parts, loop: Loop, length: Length) -> str:
    """The screen before the first step."""
    decay = parts.recipe.layer_decay
    layers = f"; {decay:g} times that from a block to the one before" if decay < 1 else ""
    learning = Learning(loop.task.lr, round(loop.task.warmup), settings.clip_norm, more=f"cosine{layers}")
    told = {"often": f"{settings.word('eval_epochs')} 1", **parts.told}
    if parts.classes:
        told["classes"] = f"{len(parts.classes)}: {listed(parts.classes)}"
    period = settings.eval_epochs * loop.task.order.iterations
    return overview(told, parts.model, loop.settings, length, learning, loop.iteration, period)


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
