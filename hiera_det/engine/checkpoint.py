"""Checkpoints of a training: everything that going on takes, and refusing to go on with other settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hiera_det.engine.launch import is_restart
from hiera_det.errors import InputError
from hiera_det.files import write_atomically
from hiera_det.weights.saving import save_tensors
from hiera_det.weights.sources import read_weight_file

__all__ = [
    "CHECKPOINT",
    "FINAL",
    "check_settings",
    "checkpoint_to_resume",
    "read_checkpoint",
    "tag_last",
    "write_checkpoint",
]

CHECKPOINT = "checkpoint.pth"
FINAL = "model_final.pth"
#: What names the newest of the two, so that the folder can be given in place of a file; detectron2's word.
TAG = "last_checkpoint"


def checkpoint_to_resume(folder: str, resume: bool, auto_resume: bool) -> str:
    """The checkpoint that a run goes on from, or "" for a fresh start.

    Args:
        folder: the run's output.
        resume: a checkpoint must be there.
        auto_resume: go on where there is one.

    Raises:
        InputError: there is none to resume; or there is one, and neither was asked for.
    """
    path = os.path.join(folder, CHECKPOINT)
    if os.path.isfile(path):
        if not (resume or auto_resume or is_restart()):  # torchrun starts all anew when it has lost a process
            raise InputError(f"--output {folder}: a training is there already; give --resume, or another folder")
        return path
    if resume:
        raise InputError(f"--resume: there is no {CHECKPOINT} in {folder}; leave --resume out, or name its --output")
    return ""


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read a checkpoint of `write_checkpoint`.

    Raises:
        InputError: it is damaged, or no checkpoint of a training.
    """
    state = read_weight_file(path)
    missing = [key for key in ("model_state", "optimizer", "iteration", "settings") if key not in state]
    if missing:
        raise InputError(f"{path}: is no checkpoint of a training (no {missing[0]}); give another --output")
    return state


def check_settings(path: str, saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse to go on with settings under which the rest would not be the same training.

    Raises:
        InputError: one differs; the line has both values.
    """
    for name, value in own.items():
        if saved.get(name) != value:
            raise InputError(
                f"--resume: {path} was made with {name} {saved.get(name)}, now it is {value}; resume with the same"
            )


def tag_last(folder: str, name: str) -> None:
    """Name the newest file in the tag."""
    write_atomically(Path(folder) / TAG, lambda file: file.write(name.encode()))


def write_checkpoint(folder: str, content: Mapping[str, Any]) -> str:
    """Write the checkpoint, in one step, and name it in the tag.

    Returns:
        its path.
    """
    path = os.path.join(folder, CHECKPOINT)
    save_tensors(path, content)
    tag_last(folder, CHECKPOINT)
    return path
