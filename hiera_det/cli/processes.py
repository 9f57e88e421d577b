"""From flags to settings."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from hiera_det.engine.processes import check_device, default_device

if TYPE_CHECKING:
    from hiera_det.tasks.settings import TaskSettings

__all__ = ["chosen_device", "machines", "settings_from"]

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


def machines(args: argparse.Namespace) -> dict[str, Any]:
    """What `hiera_det.cli.flags.add_machine_flags` says of processes."""
    return {name: getattr(args, name) for name in ("num_gpus", "num_machines", "machine_rank", "dist_url", "timeout")}
