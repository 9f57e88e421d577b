"""The flags of the two training tools for detectors: spelled as detectron2's users know them, and own data's paths."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING

from hiera_det.cli.command import command_parser
from hiera_det.cli.flags import add_data_flags, add_machine_flags, is_first_process, settled_paths

if TYPE_CHECKING:
    from hiera_det.d2.config.request import RunRequest

__all__ = ["greet", "run_request", "training_parser"]


def training_parser(
    command: str, doc: str | None, opts: str, output_dir: str = "OUTPUT_DIR"
) -> argparse.ArgumentParser:
    """A parser that a tool may add its own flags to.

    Args:
        command: see `command_parser`.
        doc: likewise.
        opts: how the configs of the tool have their keys overridden.
        output_dir: what they call the output folder.
    """
    parser = command_parser(command, doc)
    parser.add_argument("--config-file", default="", metavar="FILE", help="the config")
    parser.add_argument("--resume", action="store_true", help=f"go on from the last checkpoint in {output_dir}")
    parser.add_argument(
        "--auto-resume",
        action="store_true",
        help=f"resume from {output_dir}'s last checkpoint, or start where there is none: for jobs that are requeued",
    )
    parser.add_argument(
        "--allow-changed", action="append", default=[], metavar="KEY", help="go on although this key has changed"
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate, and train nothing")
    add_data_flags(parser)
    add_machine_flags(parser)
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help=f"{opts}, last")
    return parser


def greet(command: str, config_file: str) -> None:
    """Say at once what has begun, from the first process: PyTorch and detectron2 take seconds to be there."""
    if is_first_process():
        print(f"hiera-det {command} {config_file}: starting", flush=True)


def run_request(args: argparse.Namespace, output: Callable[[], str] = lambda: ".") -> RunRequest:
    """What `training_parser`'s flags ask for; a tool's own flags stay with it.

    Args:
        args: the flags.
        output: gives the run's folder, in whose ``data`` JSONs are written where those that are given are not taken as
            they are.
    """
    from hiera_det.d2.config.request import RunRequest
    from hiera_det.data.coco.write import private_folder

    def target() -> str:
        keeps = not getattr(args, "dry_run", False)
        return os.path.join(output(), "data") if keeps else str(private_folder("data"))

    own = settled_paths(args, target)
    names = [field.name for field in fields(RunRequest) if hasattr(args, field.name) and field.name not in own]
    return RunRequest(**{name: getattr(args, name) for name in names}, **own)
