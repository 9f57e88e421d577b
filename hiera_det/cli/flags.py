"""Flags that the tools for training have in common, and what becomes of them."""

from __future__ import annotations

import argparse
import logging
import math
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

import torch
from torch.multiprocessing.spawn import ProcessExitedException

from hiera_det.engine.launch import launch
from hiera_det.engine.loop import PRECISIONS, Plan
from hiera_det.engine.processes import is_main_process
from hiera_det.errors import InputError
from hiera_det.files import make_folder
from hiera_det.modeling.variants import VARIANTS
from hiera_det.tasks.recipes import Recipe, scaled_lr, warmup_for

__all__ = [
    "add_model_flags",
    "add_training_flags",
    "check_device",
    "default_device",
    "field_settings",
    "logged_to",
    "model_fields",
    "plan_of",
    "recipe_of",
    "run_everywhere",
    "settings_of",
]

logger = logging.getLogger("hiera_det.training")

#: Exit status of a process that a signal stopped after it saved.
STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT)


def default_device() -> str:
    """The device where none is named."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(device: str) -> None:
    """Refuse a GPU that is not there.

    Raises:
        InputError: PyTorch finds none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no GPU; give --device cpu, or install PyTorch for your GPU")


def add_model_flags(parser: argparse.ArgumentParser, image_size: int | None = 224) -> None:
    """Which model."""
    group = parser.add_argument_group("model")
    group.add_argument("--size", choices=list(VARIANTS), help="published size; its recipe is the default")
    group.add_argument("--image-size", type=int, default=image_size, metavar="PIXELS", help="side of the images")
    group.add_argument("--embed-dim", type=int, help="channels of stage 1, in place of the size's")
    group.add_argument("--num-heads", type=int, help="attention heads of stage 1, in place of the size's")
    group.add_argument("--depths", type=int, nargs=4, metavar="BLOCKS", help="of stages 1-4, in place of the size's")
    group.add_argument("--drop-path", type=float, metavar="RATE", help="stochastic depth")


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """How to train, where, and how to go on."""
    group = parser.add_argument_group("training; defaults are the published recipe's of the size")
    group.add_argument("--epochs", type=int)
    group.add_argument("--batch-size", type=int, default=64, help="images of a step, over all GPUs (default: 64)")
    group.add_argument("--accumulate", type=int, default=1, metavar="PARTS", help="forwards per step, to save memory")
    group.add_argument("--lr", type=float, help="at this very batch; the recipe's is scaled to the batch, linearly")
    group.add_argument("--warmup-epochs", type=float)
    group.add_argument("--weight-decay", type=float)
    group.add_argument("--clip-norm", type=float, default=0.0, help="largest norm of the gradients (default: any)")
    group.add_argument("--use-checkpoint", action="store_true", help="save memory: recompute blocks when going back")
    group.add_argument("--precision", choices=list(PRECISIONS), help="default: bfloat16 on GPUs, float32 on a CPU")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--workers", type=int, default=4, help="processes per GPU that read images (default: 4)")
    group.add_argument("--log-period", type=int, default=20, metavar="STEPS", help="from a line of the log to the next")
    group.add_argument("--checkpoint-epochs", type=int, default=1, help="from a checkpoint to the next (default: 1)")
    group.add_argument("--resume", action="store_true", help="go on from the checkpoint in --output")
    group.add_argument("--auto-resume", action="store_true", help="go on where there is a checkpoint, else start")
    group = parser.add_argument_group("machines; torchrun and srun are recognised and need none of these")
    group.add_argument("--device", choices=("cuda", "cpu"), default=default_device())
    group.add_argument("--num-gpus", type=int, default=1, help="processes on this machine, on the CPU too")
    group.add_argument("--num-machines", type=int, default=1)
    group.add_argument("--machine-rank", type=int, default=0)
    group.add_argument("--dist-url", default="auto", help="tcp://host:port of the first machine")


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


@contextmanager
def logged_to(output: str) -> Iterator[None]:
    """Send the main process's log to stderr and into ``log.txt`` of a folder, which is made.

    Raises:
        InputError: the folder cannot be written.
    """
    make_folder(output, "--output")
    ours = logging.getLogger("hiera_det")
    level = ours.level
    ours.setLevel(logging.INFO if is_main_process() else logging.ERROR)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if is_main_process():
        handlers.append(logging.FileHandler(os.path.join(output, "log.txt"), encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        ours.addHandler(handler)
    try:
        yield
    finally:
        ours.setLevel(level)
        for handler in handlers:
            ours.removeHandler(handler)
            handler.close()


def run_everywhere(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> None:
    """Run a training in all processes that the flags, torchrun or srun ask for.

    Args:
        run: a function of the package; it returns 0, or the number of the signal that stopped it, with which this
            process then ends as shells have it: 128 more.
        args: flags of `add_training_flags`.
    """
    try:
        with _signals_to_children():
            launch(
                _run,
                (run, args),
                num_processes=args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                device=args.device,
            )
    except ProcessExitedException as error:
        status = error.exit_code if error.exit_code >= 0 else 128 - error.exit_code
        if status not in STOPPED:
            raise
        sys.exit(status)


@contextmanager
def _signals_to_children() -> Iterator[None]:
    """Pass SIGTERM on to the processes that this one starts, and wait for them; Ctrl-C reaches them by itself.

    Where training runs in this process, `hiera_det.engine.loop.Loop` listens in its place; before and after that,
    with no child, the signal does what it always does.
    """

    def forward(number: int, frame: FrameType | None) -> None:
        children = multiprocessing.active_children()
        for child in children:
            if number == signal.SIGTERM and child.pid:
                os.kill(child.pid, number)
        if not children:
            sys.exit(128 + number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> None:
    with logged_to(args.output):
        stopped = run(args)
    if stopped:
        sys.exit(128 + stopped)
