"""From flags to settings, and running a training in the processes that its flags ask for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from hiera_det.engine.launch import launch
from hiera_det.engine.processes import check_device, default_device
from hiera_det.engine.stop import StopRequested
from hiera_det.errors import InputError

if TYPE_CHECKING:
    from hiera_det.tasks.settings import TaskSettings

__all__ = ["chosen_device", "run_everywhere", "settings_from"]

Settings = TypeVar("Settings", bound="TaskSettings")


def chosen_device(flag: str | None) -> str:
    """The device that ``--device`` names, or the one that is there.

    Raises:
        InputError: PyTorch finds no GPU where one is asked for.
    """
    device = flag or default_device()
    check_device(device)
    return device


def settings_from(kind: type[Settings], args: argparse.Namespace) -> Settings:
    """The settings whose fields the flags of the same names set.

    Raises:
        InputError: a value cannot be used.
    """
    names = [field.name for field in fields(kind)]
    words = {name: f"--{name.replace('_', '-')}" for name in names}
    return kind(words=words, **{name: value for name, value in vars(args).items() if name in names})


def run_everywhere(
    run: Callable[[Settings], int], check: Callable[[Settings], object], settings: Settings, args: argparse.Namespace
) -> None:
    """Run a training in all processes that the flags, torchrun or srun ask for; exits where a signal stopped it.

    Args:
        run: such as `hiera_det.tasks.pretrain.train.pretrain`.
        check: called before several processes are started, so that a mistake is said once.
        settings: for both.
        args: has the flags of `add_machine_flags`.

    Raises:
        InputError: see ``run``; or the numbers of processes cannot be.
    """
    for name in ("num_gpus", "num_machines"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be at least 1")
    if args.num_gpus > 1:
        check(settings)
    launch(
        _run,
        (run, settings),
        num_processes=args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        device=settings.device,
    )


def _run(run: Callable[[Any], int], settings: TaskSettings) -> None:
    if stopped := run(settings):
        raise StopRequested(stopped)
