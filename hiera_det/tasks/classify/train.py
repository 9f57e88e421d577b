"""Training a classifier on folders of images, from flags to a file that knows its classes."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader

from hiera_det.cli.plans import field_settings, model_fields, plan_of, recipe_of, settings_of
from hiera_det.data.image_folder import ImageFolder, find_class_folders
from hiera_det.engine.checkpoint import checkpoint_to_resume
from hiera_det.engine.loop import Loop
from hiera_det.engine.optimizer import build_adamw
from hiera_det.engine.order import EpochOrder, Samples, eval_loader
from hiera_det.engine.processes import process_device
from hiera_det.engine.randomness import derive, seed_all
from hiera_det.errors import InputError
from hiera_det.extras import need
from hiera_det.modeling.classifier import HieraForClassification
from hiera_det.tasks.classify.loss import MixedLoss, Mixing, evaluate
from hiera_det.tasks.recipes import FINETUNING, Recipe
from hiera_det.tasks.results import leave_results
from hiera_det.tasks.transforms import Augmentation, augmented_reader, check_image_size, eval_reader
from hiera_det.weights.load import fit
from hiera_det.weights.model_file import ModelFile, read_model_file

__all__ = ["build_model", "check", "train_classifier"]

logger = logging.getLogger("hiera_det.training")


def check(args: argparse.Namespace) -> None:
    """Refuse flags that cannot be used, before processes are started.

    Raises:
        InputError: see the line.
    """
    need("matplotlib", "the picture of the curves")
    need("tqdm", "the progress of the evaluation")
    if not 0 <= args.random_erase <= 1:
        raise InputError(f"--random-erase {args.random_erase}: must be from 0 to 1")
    if not 0 <= args.dropout < 1:
        raise InputError(f"--dropout {args.dropout}: must be at least 0 and below 1")
    if args.layer_decay is not None and not 0 < args.layer_decay <= 1:
        raise InputError(f"--layer-decay {args.layer_decay}: must be above 0 and at most 1")
    check_image_size(args.image_size)
    recipe_of(args, FINETUNING["base"])
    if args.eval_batch_size < 1:
        raise InputError(f"--eval-batch-size {args.eval_batch_size}: must be at least 1")
    if args.num_gpus > 1:
        _inputs(args)  # once here, where a mistake is one line and not one for each process


def train_classifier(args: argparse.Namespace) -> int:
    """Train and evaluate, in every process.

    Args:
        args: flags that `check` has seen.

    Returns:
        0, or the number of the signal that stopped it.

    Raises:
        InputError: data, flags, weights or a checkpoint cannot be used.
    """
    resumed, train, val, source = _inputs(args)
    _say(train, val)
    order = EpochOrder(len(train.files), args.batch_size, args.accumulate, args.seed)
    size = args.size or (source.size if source else "") or "base"
    recipe = _recipe(args, size, scratch=not args.weights)
    plan = plan_of(args, recipe, args.output)
    loss = MixedLoss(Mixing(args.mixup, args.cutmix, args.label_smoothing), len(train.classes))
    loss.check(order.part)
    device = process_device(args.device)
    seed_all(derive(args.seed, 0))
    model, fields = build_model(args, size, source, train.classes, recipe.drop_path_rate, load=not resumed)
    model.to(device)
    optimizer = build_adamw(model, recipe.betas, recipe.weight_decay, recipe.layer_decay)
    reader = augmented_reader(args.image_size, Augmentation(args.auto_augment, args.random_erase))
    samples = Samples(train.files, reader, train.labels)
    settings = settings_of(plan, recipe, args, _settings(args, fields, recipe, train))
    extra = {"config": fields, "classes": list(train.classes)}
    loop = Loop(model, optimizer, samples, order, loss, plan, settings, extra)
    if resumed:
        loop.resume(resumed)
    loader = val_loader(val, args.image_size, args.eval_batch_size, args.workers, device)

    def judge(epoch: int) -> None:
        accuracy = evaluate(model, loader, device)
        logger.info("epoch %d: %s", epoch, accuracy)
        loop.write_metrics(top1=accuracy.top1, top5=accuracy.top5, val_loss=accuracy.loss)

    stopped = loop.run(judge)
    if not stopped:
        leave_results(args.output, model, fields, train.classes)
    return stopped


def _inputs(args: argparse.Namespace) -> tuple[str, ImageFolder, ImageFolder, ModelFile | None]:
    """The checkpoint to resume or "", the images of both folders, and the weights' file."""
    resumed = checkpoint_to_resume(args.output, args.resume, args.auto_resume)
    train = find_class_folders(args.train)
    val = find_class_folders(args.val, train.classes)
    return resumed, train, val, read_model_file(args.weights) if args.weights else None


def build_model(
    args: argparse.Namespace,
    size: str,
    source: ModelFile | None,
    classes: Sequence[str],
    drop_path_rate: float,
    load: bool,
) -> tuple[HieraForClassification, dict[str, Any]]:
    """The classifier, with a file's weights where there is one, and the fields that build it again.

    Args:
        args: flags.
        size: published size, for what no flag names.
        source: the weights' file; its dimensions count where no flag says otherwise.
        classes: their names; a file's classifier is taken over only where it is for the very classes.
        drop_path_rate: stochastic depth.
        load: whether to load the weights; not where a checkpoint follows.

    Raises:
        InputError: the weights do not fit.
    """
    fields = model_fields(args, size)
    if source and not (args.size or args.embed_dim or args.num_heads or args.depths):
        fields |= source.trunk_fields | {"pretrain_size": args.image_size}
    if fields["frames"]:
        raise InputError(f"--weights {args.weights}: is a video model's, and the training is on images")
    options = {"drop_path_rate": drop_path_rate, "dropout": args.dropout, "use_checkpoint": args.use_checkpoint}
    model = HieraForClassification(num_classes=len(classes), **fields, **options)
    if source and load:
        # A file that does not name its classes has, for all we know, others of the same number.
        same = source.classes == tuple(classes) if source.classes else bool(args.keep_head)
        has_head = "head.projection.weight" in source.contents.heads
        tensors, report = fit(source.contents, model, new_head=has_head and not same)
        model.load_state_dict(tensors, strict=not report.initialised)
        logger.info("%s", report)
    return model, fields


def val_loader(
    folder: ImageFolder, image_size: int, batch_size: int, workers: int, device: torch.device
) -> DataLoader[Any]:
    """This process's images of a folder, prepared for evaluation."""
    samples = Samples(folder.files, eval_reader(image_size), folder.labels)
    return eval_loader(samples, batch_size, workers, device.type == "cuda")


def _recipe(args: argparse.Namespace, size: str, scratch: bool) -> Recipe:
    """The size's recipe with the flags; from random weights all layers learn at one rate."""
    recipe = recipe_of(args, FINETUNING[size])
    decay = args.layer_decay if args.layer_decay is not None else 1.0 if scratch else recipe.layer_decay
    logger.info("recipe of size %s%s", size, "; from scratch: no layer decay" if scratch and decay == 1 else "")
    return replace(recipe, layer_decay=decay)


def _settings(args: argparse.Namespace, fields: dict[str, Any], recipe: Recipe, train: ImageFolder) -> dict[str, Any]:
    own = field_settings(fields)
    names = ("mixup", "cutmix", "label_smoothing", "auto_augment", "random_erase", "dropout")
    own |= {f"--{name.replace('_', '-')}": getattr(args, name) for name in names}
    return own | {
        "--layer-decay": recipe.layer_decay,
        "the number of files": len(train.files),
        "the classes": list(train.classes),
    }


def _say(train: ImageFolder, val: ImageFolder) -> None:
    """What there is to train on; classes that nothing judges."""
    logger.info("%d images of %d classes, %d to evaluate", len(train.files), len(train.classes), len(val.files))
    unjudged = [name for index, name in enumerate(train.classes) if index not in set(val.labels)]
    if unjudged:
        logger.warning("%s: has no images of %d classes, such as %s", val.root, len(unjudged), unjudged[0])
