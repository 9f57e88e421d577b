"""Going on with a run whose record says what it was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hiera_det.engine.record import Record

__all__ = ["resume"]


def resume(output: str, record: Record, changes: Mapping[str, Any], callbacks: Sequence[object]) -> None:
    """Go on with a run in its folder.

    Args:
        output: the folder, which may have been moved.
        record: what the run was asked for.
        changes: arguments of the training that are to be others; they may differ from the checkpoint's.
        callbacks: as of the training.

    Raises:
        InputError: there is no checkpoint, or a change cannot be.
    """
    if record.task == "detect":
        from hiera_det.api.detector import resume_detector

        resume_detector(output, record.asked, dict(changes), callbacks)
    else:
        from hiera_det.api.plain import resume_plain

        resume_plain(record.task, output, record.asked, dict(changes), callbacks)
