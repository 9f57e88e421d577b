"""``run.json``: what a training was asked for, left in its folder, so that it can be opened and gone on with later."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hiera_det.engine.environment import environment
from hiera_det.errors import InputError
from hiera_det.files import write_atomically

__all__ = ["Record", "check_asked", "read_record", "write_record"]

RECORD = "run.json"
#: What is asked of one start only, and not of those that go on.
ONCE = ("resume", "auto_resume", "allow_changed", "dry_run", "eval_only", "words")
#: Where other machines are, which a file that may be a stranger's is not asked.
MEETING = ("num_machines", "machine_rank", "dist_url")


@dataclass(frozen=True)
class Record:
    """What a training was asked for.

    Attributes:
        task: ``detect``, ``torchvision``, ``classify`` or ``pretrain``.
        asked: fields of its request or settings, plain values; paths are absolute.
        environment: what it was started on, see `environment`.
    """

    task: str
    asked: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)


def write_record(folder: str, task: str, asked: Mapping[str, Any], paths: Iterable[str]) -> None:
    """Write what a training is asked for, from its first process.

    Args:
        folder: the run's output.
        task: see `Record`.
        asked: fields of a request or of settings.
        paths: those of them that may name files or folders.
    """
    kept = {name: value for name, value in asked.items() if name not in (*ONCE, *MEETING)}
    for name in paths:
        if kept.get(name) and os.path.exists(kept[name]):
            kept[name] = os.path.abspath(kept[name])
    text = json.dumps(asdict(Record(task, kept, environment())), indent=1, default=str)
    write_atomically(Path(folder) / RECORD, lambda file: file.write(text.encode(errors="surrogateescape")))


def read_record(folder: str) -> Record | None:
    """What was written there; None where there is none.

    Raises:
        InputError: it is damaged.
    """
    path = Path(folder) / RECORD
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
        asked = {name: value for name, value in content["asked"].items() if name not in (*ONCE, *MEETING)}
        return Record(str(content["task"]), asked, dict(content.get("environment", {})))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: is damaged; remove it, and start anew or go on by the command") from None


def check_asked(folder: str, asked: Mapping[str, Any], fields: Iterable[str]) -> None:
    """Refuse a record that another version of this package has written.

    Args:
        folder: of the run.
        asked: what its record says.
        fields: those that this version knows.

    Raises:
        InputError: it has another field, or is no training's.
    """
    unknown = sorted(asked.keys() - set(fields))
    if unknown:
        raise InputError(
            f"{Path(folder) / RECORD}: {unknown[0]} is no setting of this version: go on by the command with "
            "--resume, or by the version that wrote it"
        )
