"""From the flags of a training to its recipe and its plan."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hiera_det.engine.loop import PRECISIONS, Plan
from hiera_det.errors import InputError
from hiera_det.modeling.variants import VARIANTS
from hiera_det.tasks.recipes import Recipe, scaled_lr, warmup_for

__all__ = ["field_settings", "model_fields", "plan_of", "recipe_of", "settings_of"]

logger = logging.getLogger("hiera_det.training")


def model_fields(args: argparse.Namespace, size: str) -> dict[str, Any]:
    """The arguments of `Hiera` that the flags name, plain values, the size's own where there is no flag."""
    variant = VARIANTS[size]
    return {
        "embed_dim": args.embed_dim or variant.embed_dim,
        "num_heads": args.num_heads or (variant.num_heads if not args.embed_dim else 1),
        "depths": list(args.depths or variant.depths),
        "pretrain_size": args.image_size,
        "frames": getattr(args, "frames", 0),
    }


def recipe_of(args: argparse.Namespace, recipe: Recipe) -> Recipe:
    """A recipe with the flags in its place.

    Raises:
        InputError: a value that cannot be used.
    """
    if args.epochs is not None and args.epochs < 1:
        raise InputError(f"--epochs {args.epochs}: must be at least 1")
    for name in ("lr", "warmup_epochs", "weight_decay", "clip_norm"):
        value = getattr(args, name)
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise InputError(f"--{name.replace('_', '-')} {value}: must be a number of at least 0")
    for name in ("accumulate", "log_period", "checkpoint_epochs", "num_gpus", "num_machines"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be at least 1")
    if args.workers < 0:
        raise InputError(f"--workers {args.workers}: must be at least 0")
    if args.precision is not None and args.precision not in PRECISIONS:
        raise InputError(f"--precision {args.precision}: choose {' or '.join(PRECISIONS)}")
    if args.drop_path is not None and not 0 <= args.drop_path < 1:
        raise InputError(f"--drop-path {args.drop_path}: must be at least 0 and below 1")
    flags = {"drop_path_rate": args.drop_path, "weight_decay": args.weight_decay}
    return replace(recipe, **{name: value for name, value in flags.items() if value is not None})


def plan_of(args: argparse.Namespace, recipe: Recipe, output: str) -> Plan:
    """The plan that flags and recipe make; what was scaled or shortened goes to the log."""
    epochs = args.epochs or recipe.epochs
    lr = args.lr
    if lr is None:
        lr = scaled_lr(recipe.lr, recipe.lr_batch, args.batch_size)
        logger.info(
            "lr %.3g: the recipe's %g at batch %d, for batch %d", lr, recipe.lr, recipe.lr_batch, args.batch_size
        )
    warmup = args.warmup_epochs
    if warmup is None:
        warmup = warmup_for(epochs, recipe)
        if warmup < recipe.warmup_epochs:
            logger.info("warm-up %g epochs: the recipe's %g are for %d", warmup, recipe.warmup_epochs, recipe.epochs)
    return Plan(
        output=output,
        epochs=epochs,
        warmup_epochs=warmup,
        lr=lr,
        accumulate=args.accumulate,
        seed=args.seed,
        precision=args.precision or ("bfloat16" if args.device == "cuda" else "float32"),
        workers=args.workers,
        log_period=args.log_period,
        checkpoint_epochs=args.checkpoint_epochs,
        clip_norm=args.clip_norm,
    )


def settings_of(plan: Plan, recipe: Recipe, args: argparse.Namespace, more: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint must agree in, by the names of the flags."""
    own = {
        "--epochs": plan.epochs,
        "--batch-size": args.batch_size,
        "--accumulate": plan.accumulate,
        "--lr": plan.lr,
        "--warmup-epochs": plan.warmup_epochs,
        "--weight-decay": recipe.weight_decay,
        "--drop-path": recipe.drop_path_rate,
        "--clip-norm": plan.clip_norm,
        "--seed": plan.seed,
    }
    return own | dict(more)


def field_settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A model's fields by the names of the flags."""
    named = {"image_size" if name == "pretrain_size" else name: value for name, value in fields.items()}
    return {f"--{name.replace('_', '-')}": value for name, value in named.items()}
