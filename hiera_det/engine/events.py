"""``metrics.json``: one JSON object a line, as detectron2 writes it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hiera_det.files import write_atomically

__all__ = ["MetricsFile", "read_metrics"]


class MetricsFile:
    """Writes the lines of a training, from one process.

    Args:
        folder: where ``metrics.json`` is.
        iteration: the iteration that the training starts or goes on at: lines of later ones are taken out, for they
            are about to come again.
    """

    def __init__(self, folder: str, iteration: int) -> None:
        self.path = Path(folder) / "metrics.json"
        kept = [line for line in read_metrics(self.path) if line["iteration"] <= iteration]
        text = "".join(f"{json.dumps(line)}\n" for line in kept)
        write_atomically(self.path, lambda file: file.write(text.encode()))

    def add(self, **values: Any) -> None:
        """Append a line; ``iteration`` is among the values."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a file, without one that was cut off; none where there is no file."""
    lines: list[dict[str, Any]] = []
    if os.path.isfile(path):
        for text in Path(path).read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and "iteration" in line:
                lines.append(line)
    return lines
