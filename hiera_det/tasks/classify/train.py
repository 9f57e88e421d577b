"""Training a classifier on folders of images or videos, from settings to a file that knows its classes."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hiera_det.data.class_rows import move_class_rows
from hiera_det.data.classes import match_classes, told
from hiera_det.data.image_folder import SUFFIXES, ImageFolder, find_class_folders
from hiera_det.data.video import VIDEO_SUFFIXES
from hiera_det.engine.processes import process_device
from hiera_det.engine.stop import Stop
from hiera_det.errors import InputError
from hiera_det.extras import need
from hiera_det.modeling.classifier import HieraForClassification
from hiera_det.tasks.batches import eval_loader, samples_of
from hiera_det.tasks.classify.loss import MixedLoss, evaluate
from hiera_det.tasks.recipes import FINETUNING, Recipe
from hiera_det.tasks.settings import CLASSES, CLIPS, REGULARISERS, ClassifierSettings
from hiera_det.tasks.training import OF_CHECKPOINT, RANDOM, Parts, list_hash, run_task
from hiera_det.tasks.transforms import Reader, augmented_clips_reader, augmented_reader, evaluated_reader
from hiera_det.weights.load import fit
from hiera_det.weights.model_file import ModelFile, read_model_file

__all__ = ["Inputs", "read_inputs", "train"]

logger = logging.getLogger("hiera_det.training")


@dataclass(frozen=True)
class Inputs:
    """What a training starts from.

    Attributes:
        train: the images to train on.
        val: those to evaluate on.
        source: the weights' file, if there is one.
        frames: of the clips; 0 for images.
    """

    train: ImageFolder
    val: ImageFolder
    source: ModelFile | None
    frames: int


def read_inputs(settings: ClassifierSettings) -> Inputs:
    """Find what the settings name.

    Raises:
        InputError: it cannot be used, or a package is missing.
    """
    need("PIL", "reading images", "Pillow")
    need("torchvision", "preparing images")
    need("matplotlib", "the picture of the curves")
    need("tqdm", "the progress of the evaluation")
    source = read_model_file(settings.weights) if settings.weights else None
    frames = _frames(settings, source)
    kind = (VIDEO_SUFFIXES, "videos") if frames else (SUFFIXES, "images")
    train = find_class_folders(settings.train, (), *kind)
    val = find_class_folders(settings.val, train.classes, *kind)
    return Inputs(train, val, source, frames)


def _frames(settings: ClassifierSettings, source: ModelFile | None) -> int:
    """Frames of the clips to train on; 0 for images.

    Raises:
        InputError: the weights are of the other kind.
    """
    own = int(source.fields.get("frames", 0)) if source else 0
    asked = own if settings.frames is None else settings.frames
    if source and bool(asked) != bool(own):
        kinds = ("a video", "an image") if own else ("an image", "a video")
        words = f"{settings.word('weights')} {settings.weights}", f"{settings.word('frames')} {asked}"
        raise InputError(f"{words[0]}: is {kinds[0]} model's, and {words[1]} asks for {kinds[1]} model")
    return asked


def train(settings: ClassifierSettings, callbacks: Sequence[object] = ()) -> int:
    """Train and evaluate; see `run_task`."""
    return run_task(settings, read_inputs, _parts, callbacks)


def _parts(settings: ClassifierSettings, inputs: Inputs, resumed: bool, stop: Stop) -> Parts:
    images, val, what = inputs.train, inputs.val, "videos" if inputs.frames else "images"
    _warn(images, val, what)
    # Fine-tuning goes on with the file's size, so that it need not be repeated on the command line.
    size = settings.size or (inputs.source.size if inputs.source else "") or "base"
    recipe = _recipe(settings, size)
    model, fields, weights = _build_model(settings, size, inputs, resumed, recipe.drop_path_rate)
    reader = _reader(settings, inputs.frames).with_limits(settings.max_pixels, settings.bad_images())
    clips = settings.repeats if inputs.frames else 1
    return Parts(
        task="classify",
        model=model,
        fields=fields,
        recipe=recipe,
        samples=samples_of(images.files, reader, images.labels),
        loss=MixedLoss(settings, len(images.classes), settings.part * clips, settings.word),
        evaluate=_evaluation(settings, inputs, model, stop),
        told={
            "data": f"train {len(images.files)} {what}, {images.root}; val {len(val.files)} {what}, {val.root}",
            "model": f"Hiera {size} classifier",
            "weights": weights,
            "images": settings.told_images(inputs.frames),
        },
        unchanged=_unchanged(settings, recipe, inputs),
        classes=images.classes,
        following="hiera-det classify FOLDER --weights {weights}",
        evaluate_epochs=settings.eval_epochs,
    )


def _reader(settings: ClassifierSettings, frames: int) -> Reader:
    """What reads an image, or clips of a video, and augments it."""
    if not frames:
        return augmented_reader(settings.image_size, settings, settings.word)
    logger.info("the recipe is that for images; for clips, only frames, stride and views are the paper's")
    return augmented_clips_reader(settings.image_size, frames, settings.stride, settings.repeats, settings)


def _warn(train: ImageFolder, val: ImageFolder, what: str) -> None:
    """Of classes that no file is evaluated of, and of files that are in both folders."""
    there = set(val.labels)
    absent = [name for index, name in enumerate(train.classes) if index not in there]
    if absent:
        logger.warning("%s: has no %s of %d classes, such as %s", val.root, what, len(absent), absent[0])
    if common := len(_paths(train) & _paths(val)):
        logger.warning("%d of the %s to evaluate are trained on: accuracy says nothing about others", common, what)


def _paths(folder: ImageFolder) -> set[str]:
    """The files, however their folder was named."""
    root = os.path.realpath(folder.root)
    return {root + file.removeprefix(folder.root.rstrip(os.sep)) for file in folder.files}


def _recipe(settings: ClassifierSettings, size: str) -> Recipe:
    """The size's recipe with the settings; from random weights all layers learn at one rate."""
    recipe = settings.recipe(size, FINETUNING)
    decay = settings.layer_decay
    if decay is None:
        decay = recipe.layer_decay if settings.weights else 1.0
    return replace(recipe, layer_decay=decay)


def _build_model(
    settings: ClassifierSettings, size: str, inputs: Inputs, resumed: bool, drop_path_rate: float
) -> tuple[HieraForClassification, dict[str, Any], str]:
    """The classifier, with a file's weights where no checkpoint follows, the fields that build it again, and whose.

    Raises:
        InputError: the weights do not fit.
    """
    fields, source = settings.model_fields(size), inputs.source
    # What the file records may be no published size; a dimension that the user names is meant to differ from it.
    if source and not (settings.size or settings.embed_dim or settings.num_heads or settings.depths):
        fields |= source.trunk_fields | {"pretrain_size": settings.image_size}
    fields["frames"] = inputs.frames
    model = HieraForClassification(
        num_classes=len(inputs.train.classes),
        drop_path_rate=drop_path_rate,
        dropout=settings.dropout,
        use_checkpoint=settings.use_checkpoint,
        **fields,
    )
    if resumed:  # a checkpoint has all weights
        return model, fields, OF_CHECKPOINT
    return model, fields, _load(model, source, inputs.train.classes, settings.keep_head) if source else RANDOM


def _load(model: HieraForClassification, source: ModelFile, classes: Sequence[str], keep_head: bool) -> str:
    """Take up a file's weights, of the last layer the rows of the classes of the same names; says what became of it."""
    contents, has_head = source.contents, "head.projection.weight" in source.contents.heads
    said = []
    # A file that does not name its classes has, for all we know, others of the same number.
    same = keep_head and not source.classes
    if has_head and source.classes:
        match = match_classes(source.classes, classes)
        same = any(row is not None for row in match.rows)
        if not match.is_same_order:
            said.append(told(match))
            fresh = {name: tensor for name, tensor in model.state_dict().items() if name in contents.heads}
            moved = move_class_rows(contents.heads, fresh, match, len(source.classes))
            contents = replace(contents, heads=contents.heads | moved)
    tensors, report = fit(contents, model, new_head=has_head and not same)
    model.load_state_dict(tensors, strict=not report.initialised)  # without the head, names are missing by intent
    return "; ".join([str(report), *said])


def _evaluation(
    settings: ClassifierSettings, inputs: Inputs, model: HieraForClassification, stop: Stop
) -> Callable[[int], Mapping[str, float]]:
    """What measures the accuracy after so many epochs."""
    device = process_device(settings.device)
    views = settings.views[0], settings.views[1]
    reader = evaluated_reader(settings.image_size, inputs.frames, settings.stride, views)
    reader.with_limits(settings.max_pixels, settings.bad_images())
    samples = samples_of(inputs.val.files, reader, inputs.val.labels, replace=False)
    at_once = max(1, settings.eval_batch_size // math.prod(views)) if inputs.frames else settings.eval_batch_size
    loader = eval_loader(samples, at_once, settings.reading(), device.type == "cuda")

    def measure(epoch: int) -> dict[str, float]:
        accuracy = evaluate(model, loader, device, stop=stop)
        logger.info("epoch %d: %s", epoch, accuracy)
        return {"top1": accuracy.top1, "top5": accuracy.top5, "val_loss": accuracy.loss}

    return measure


def _unchanged(settings: ClassifierSettings, recipe: Recipe, inputs: Inputs) -> dict[str, Any]:
    train, names = inputs.train, (*REGULARISERS, *(CLIPS if inputs.frames else ()))
    own = {settings.word(name): getattr(settings, name) for name in names}
    return own | {
        settings.word("layer_decay"): recipe.layer_decay,
        "the number of files": len(train.files),
        CLASSES: list(train.classes),
        "the files": list_hash(train.root, train.files, train.labels),
    }
