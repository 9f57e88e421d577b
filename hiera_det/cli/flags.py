"""Flags that several commands have in common."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

from hiera_det.cli.command import command_parser
from hiera_det.data.limits import MAX_PIXELS
from hiera_det.modeling.variants import VARIANTS

__all__ = [
    "add_data_flags",
    "add_device_flag",
    "add_evaluation_flags",
    "add_image_flags",
    "add_machine_flags",
    "add_model_flags",
    "add_training_flags",
    "is_first_process",
    "settled_paths",
    "training_parser",
]


#: Flags of own data, each of which may be given again.
PATHS = ("train_json", "train_images", "val_json", "val_images")


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Where own data are; `settled_paths` reads it."""
    group = parser.add_argument_group("your own data")
    folder = "the folder that its file names are relative to"
    helps = {
        "--train-json": "COCO JSON to train on, its classes are taken; again for more, merged by the classes' names",
        "--train-images": f"{folder}; one for each JSON, or one for all",
        "--val-json": "COCO JSON to evaluate on; again for more",
        "--val-images": folder,
    }
    for flag, text in helps.items():
        metavar = "FILE" if flag.endswith("json") else "DIR"
        group.add_argument(flag, action="append", default=[], metavar=metavar, help=text)
    group.add_argument("--data", metavar="DIR", default="", help="a folder as of Roboflow, YOLO, VOC, labelme or COCO")
    part = "train on this part of the images, as 0.8, evaluate on the rest"
    group.add_argument("--split", type=float, metavar="PART", default=None, help=part)
    group.add_argument("--split-seed", type=int, default=0, metavar="N", help="of the choice (default: 0)")


def settled_paths(args: argparse.Namespace, target: Callable[[], str]) -> dict[str, Any]:
    """One path or None for each of `PATHS`; what was merged, recognised or split is printed by the first process.

    Args:
        args: the flags.
        target: gives the folder for JSONs that are made.

    Raises:
        InputError: see `hiera_det.data.own.OwnData`.
    """
    from hiera_det.data.own import settled_data

    paths = {name: tuple(getattr(args, name)) for name in PATHS}
    tell = print if is_first_process() else lambda line: None
    return settled_data(paths, args.data, args.split, args.split_seed, target, tell)


def is_first_process() -> bool:
    """Whether this one speaks, by what torchrun or srun has put into the environment."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def add_device_flag(parser: argparse._ActionsContainer) -> None:
    """Where to compute; `hiera_det.cli.processes.chosen_device` reads it."""
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda where PyTorch finds a GPU")


def add_image_flags(parser: argparse._ActionsContainer, on_bad_image: str, skipped: str) -> None:
    """How image files are opened, and what becomes of bad ones.

    Args:
        parser: or a group of it.
        on_bad_image: the default, "fail" or "skip".
        skipped: what skipping one means here, for the help.
    """
    parser.add_argument(
        "--on-bad-image",
        choices=("fail", "skip"),
        default=on_bad_image,
        help=f"a file that cannot be read ends the run, or {skipped} (default: {on_bad_image})",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        metavar="N",
        help=f"largest image, by its header (default: {MAX_PIXELS // 10**6} million)",
    )


def add_machine_flags(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """In how many processes, and where; returns the group."""
    group = parser.add_argument_group("machines; torchrun and srun are recognised and need none of these")
    group.add_argument("--num-gpus", type=int, default=1, help="processes on this machine, on the CPU too")
    group.add_argument("--num-machines", type=int, default=1)
    group.add_argument("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    group.add_argument("--dist-url", default="auto", help="tcp://host:port of the first machine")
    minutes = "for which a process waits for the others before it ends (default: 30)"
    group.add_argument("--timeout", type=float, default=30.0, metavar="MINUTES", help=minutes)
    return group


def training_parser(command: str, doc: str | None) -> argparse.ArgumentParser:
    """A parser that gives the flags which are there: the defaults of the others are the settings' own."""
    parser = command_parser(command, doc, allow_abbrev=False)
    parser.argument_default = argparse.SUPPRESS
    return parser


def add_model_flags(parser: argparse.ArgumentParser, side: str = "side of the images (default: 224)") -> None:
    """Which model, and with ``side`` the help on the images' size."""
    group = parser.add_argument_group("model")
    group.add_argument("--size", choices=list(VARIANTS), help="published size; its recipe is the default")
    group.add_argument("--image-size", type=int, metavar="PIXELS", help=side)
    group.add_argument("--embed-dim", type=int, help="channels of stage 1, in place of the size's")
    group.add_argument("--num-heads", type=int, help="attention heads of stage 1, in place of the size's")
    group.add_argument("--depths", type=int, nargs=4, metavar="BLOCKS", help="of stages 1-4, in place of the size's")
    group.add_argument("--drop-path", type=float, metavar="RATE", help="stochastic depth")


def add_evaluation_flags(parser: argparse.ArgumentParser, best: str, batch_size: int = 64) -> None:
    """When a plain training measures, what its best is, and when it has waited long enough.

    Args:
        parser: of the command.
        best: the default metric.
        batch_size: the default of ``--eval-batch-size``.
    """
    group = parser.add_argument_group("evaluation")
    group.add_argument("--eval-batch-size", type=int, help=f"images at a time (default: {batch_size})")
    group.add_argument("--eval-epochs", type=int, help="epochs from an evaluation to the next (default: 1)")
    group.add_argument(
        "--best", metavar="METRIC", help=f"its best weights go to model_best.pth (default: {best}; '': none)"
    )
    group.add_argument(
        "--patience", type=int, metavar="N", help="end after N evaluations without a better one (default: 0: never)"
    )


def add_training_flags(parser: argparse.ArgumentParser, batch_size: int = 64, scaled: str = "linearly") -> None:
    """How to train, where, and how to go on; with the default of ``--batch-size`` and how ``--lr`` follows it."""
    group = parser.add_argument_group("training; defaults are the published recipe's of the size")
    group.add_argument("--epochs", type=int)
    group.add_argument("--batch-size", type=int, help=f"images of a step, over all GPUs (default: {batch_size})")
    group.add_argument("--accumulate", type=int, metavar="PARTS", help="forwards per step, to save memory")
    group.add_argument("--lr", type=float, help=f"at this very batch; the recipe's is scaled to the batch, {scaled}")
    group.add_argument("--warmup-epochs", type=float)
    group.add_argument("--weight-decay", type=float)
    group.add_argument("--clip-norm", type=float, help="largest norm of the gradients (default: any)")
    group.add_argument("--ema-decay", type=float, metavar="DECAY", help="average the weights too, such as 0.9998")
    group.add_argument("--use-checkpoint", action="store_true", help="save memory: recompute blocks when going back")
    group.add_argument("--compile", action="store_true", help="compile the model with torch.compile")
    group.add_argument("--precision", help="float32, bfloat16, float16 (default: bfloat16 on GPUs, float32 on a CPU)")
    group.add_argument(
        "--parallel", help="of several processes: ddp, a model each, or fsdp, a shared one (default: ddp)"
    )
    group.add_argument("--seed", type=int)
    group.add_argument(
        "--workers", type=int, help="processes per GPU that read images (default: 4, or the cores there are)"
    )
    _add_progress_flags(parser)
    add_device_flag(add_machine_flags(parser))


def _add_progress_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("log, checkpoints, and going on")
    group.add_argument("--log-period", type=int, metavar="STEPS", help="from a line of the log to the next")
    group.add_argument(
        "--loggers", nargs="+", metavar="NAME", help="metrics go there too, besides TensorBoard: csv, wandb, mlflow"
    )
    group.add_argument("--checkpoint-epochs", type=int, help="from a checkpoint to the next (default: 1)")
    group.add_argument(
        "--checkpoint-minutes", type=float, help="most that pass without a checkpoint (default: 10; 0: any)"
    )
    group.add_argument(
        "--skip-nonfinite", type=int, metavar="K", help="steps in a row left out where not finite (default: 0)"
    )
    group.add_argument("--resume", action="store_true", help="go on from the checkpoint in --output")
    group.add_argument("--auto-resume", action="store_true", help="go on where there is a checkpoint, else start")
    group.add_argument(
        "--allow-changed", nargs="+", metavar="NAME", help="go on although these are not the checkpoint's, such as lr"
    )
