"""``metrics.json``: one JSON object a line, as detectron2 writes it, each iteration once; and the other writers."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hiera_det.files import write_atomically

__all__ = ["MetricsFile", "TensorBoard", "last_iteration", "read_metrics"]

logger = logging.getLogger("hiera_det.training")

METRICS = "metrics.json"


class MetricsFile:
    """Writes the lines of a training, from one process.

    Args:
        folder: where ``metrics.json`` is.
        iteration: the last iteration that counts, where a training goes on: lines of later ones are taken out, for they
            are about to come again. -1 for a fresh start.
    """

    def __init__(self, folder: str, iteration: int) -> None:
        self.path = Path(folder) / METRICS
        kept = [line for line in read_metrics(self.path) if line["iteration"] <= iteration]
        text = "".join(f"{_as_json(line)}\n" for line in kept)
        write_atomically(self.path, lambda file: file.write(text.encode()))
        #: The last iteration of which there is a line; -1 for none.
        self.last = max((line["iteration"] for line in kept), default=-1)
        self._waiting = ""  # what a full disk had no room for

    def add(self, **values: Any) -> None:
        """Append a line; ``iteration`` is among the values. One that cannot be written comes with a later one."""
        self._write(self._waiting + _as_json(values) + "\n")

    def close(self) -> None:
        """Try once more what could not be written."""
        if self._waiting:
            self._write(self._waiting)

    def _write(self, text: str) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)  # somebody may have tidied up meanwhile
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            if not self._waiting:
                logger.error("%s: cannot be written (%s); trying again later", self.path, error.strerror)
            self._waiting = text if text.startswith("\n") else "\n" + text  # after a line that may be cut off
        else:
            self._waiting = ""


def _as_json(values: Mapping[str, Any]) -> str:
    """One line; what is no number in JSON, as NaN, is null."""
    plain = {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in values.items()}
    return json.dumps(plain, allow_nan=False)


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a file, without one that was cut off; none where there is no file."""
    lines: list[dict[str, Any]] = []
    if os.path.isfile(path):
        for text in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and type(line.get("iteration")) is int:
                lines.append(line)
    return lines


def last_iteration(folder: str) -> int:
    """The last iteration that a run has written of itself; 0 where it has not."""
    return max((line["iteration"] for line in read_metrics(os.path.join(folder, METRICS))), default=0)


class TensorBoard:
    """The same lines for TensorBoard, where that is installed; otherwise nothing.

    Args:
        folder: where its file goes.
        iteration: as of `MetricsFile`; points of later ones are no longer shown.
    """

    def __init__(self, folder: str, iteration: int = 0) -> None:
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(folder, purge_step=iteration + 1 if iteration > 0 else None)

    def add(self, *, iteration: int, **values: Any) -> None:
        """Add the values that are numbers."""
        try:
            for name, value in values.items() if self._writer else ():
                if isinstance(value, int | float):
                    self._writer.add_scalar(name, value, iteration)
        except OSError as error:  # its thread has ended; metrics.json has the same
            logger.error("TensorBoard's file cannot be written (%s); from here on it is not", error.strerror)
            self._writer = None

    def close(self) -> None:
        """Write what is still in memory."""
        if self._writer:
            self._writer.close()
