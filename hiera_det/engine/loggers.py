"""Where else the lines of ``metrics.json`` go: a CSV, wandb, mlflow. Each is told what that file is told."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from hiera_det.engine.events import METRICS, read_metrics
from hiera_det.engine.record import read_record
from hiera_det.engine.say import say
from hiera_det.errors import InputError
from hiera_det.extras import need
from hiera_det.files import write_atomically

__all__ = ["LOGGERS", "check_loggers", "open_loggers"]

logger = logging.getLogger("hiera_det.training")

#: What keeps the names under which wandb and mlflow know a run, which goes on there when it is resumed.
NAMES = "loggers.json"
#: The project of wandb and the experiment of mlflow, where the environment names none.
PROJECT = "hiera_det"
LOGIN = "wandb login, or set WANDB_MODE=offline"
STORE = "set MLFLOW_TRACKING_URI to a server that answers, or to none"


class Writer(Protocol):
    """What takes a training's lines."""

    def add(self, **values: Any) -> None:
        """Take a line; ``iteration`` is among the values."""

    def close(self) -> None:
        """Write what is still in memory."""


class Csv:
    """``metrics.csv``: a row for each line of ``metrics.json``, which has been written before; columns come as needed.

    Args:
        folder: of the run.
        name: not needed.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path, self.name = folder / "metrics.csv", name
        self._columns: list[str] = []
        self._write_all()

    def _write_all(self) -> None:
        lines = read_metrics(self.path.with_name(METRICS))
        first = ["iteration", "epoch"]
        self._columns = [*first, *sorted({name for line in lines for name in line} - {*first})]
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        write_atomically(self.path, lambda file: file.write(text.getvalue().encode()), durable=False)

    def add(self, **values: Any) -> None:
        """Append a row, or write all anew with more columns."""
        if not values.keys() <= {*self._columns}:
            self._write_all()
            return
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._columns, lineterminator="\n").writerow(_numbers(values))

    def close(self) -> None:
        """Nothing is in memory."""


class Wandb:
    """A run of Weights & Biases, in the project of WANDB_PROJECT; offline, its files are in the run's folder.

    Args:
        folder: of the run.
        name: under which wandb knows it; "" for a new one.
    """

    def __init__(self, folder: Path, name: str) -> None:
        import wandb

        record = read_record(os.fspath(folder))
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.resolve().name,
            id=name or None,
            resume="allow",
            dir=os.fspath(folder),
            config=record.asked if record else {},
            settings=wandb.Settings(console="off", silent=True),
        )
        self.name = str(self._run.id)
        say.info("wandb       %s", self._run.dir if self._run.offline else self._run.url)

    def add(self, *, iteration: int, **values: Any) -> None:
        """Log a line's numbers."""
        self._run.log(_numbers(values), step=iteration)

    def close(self) -> None:
        """End the run; a resumed training goes on with it."""
        self._run.finish()


class Mlflow:
    """A run of mlflow, in the experiment of MLFLOW_EXPERIMENT_NAME at MLFLOW_TRACKING_URI, else in the run's folder.

    Args:
        folder: of the run.
        name: under which mlflow knows it; "" for a new one.
    """

    def __init__(self, folder: Path, name: str) -> None:
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # else it tells of each table of its database
        place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(folder / 'mlflow.db').resolve().as_posix()}"
        self._client: Any = MlflowClient(tracking_uri=place)
        self.name = name or self._create(folder)
        self._client.update_run(self.name, status="RUNNING")
        say.info("mlflow      run %s at %s", self.name, place)

    def _create(self, folder: Path) -> str:
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(title)
        experiment = known.experiment_id if known else self._client.create_experiment(title)
        run = self._client.create_run(experiment, run_name=folder.resolve().name).info.run_id
        if record := read_record(os.fspath(folder)):
            for key, value in record.asked.items():
                self._client.log_param(run, key, str(value)[:LONGEST])
        return str(run)

    def add(self, *, iteration: int, **values: Any) -> None:
        """Log a line's numbers, under names that mlflow takes."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        numbers = [
            Metric(re.sub(r"[^\w.\- /:]", "_", name), value, now, iteration) for name, value in _numbers(values).items()
        ]
        self._client.log_batch(self.name, metrics=numbers)

    def close(self) -> None:
        """End the run; a resumed training goes on with it."""
        self._client.set_terminated(self.name)


#: Letters of a setting that mlflow keeps.
LONGEST = 500
#: The loggers by their words: the package of each, if it is no part of Python, and what to do where one cannot start.
LOGGERS: dict[str, tuple[str, Callable[[Path, str], Any], str]] = {
    "csv": ("", Csv, "choose another folder"),
    "wandb": ("wandb", Wandb, LOGIN),
    "mlflow": ("mlflow", Mlflow, STORE),
}


def check_loggers(names: Sequence[str], word: str) -> None:
    """Refuse a training whose loggers are unknown or not installed.

    Args:
        names: of `LOGGERS`.
        word: the flag or key that named them.

    Raises:
        InputError: one is.
    """
    for name in names:
        if name not in LOGGERS:
            raise InputError(f"{word} {name}: choose of {', '.join(LOGGERS)}; TensorBoard and metrics.json are always")
        if LOGGERS[name][0]:
            need(LOGGERS[name][0], f"{word} {name}")


def open_loggers(names: Iterable[str], folder: str, iteration: int) -> list[Writer]:
    """Writers of a training's lines, for its first process.

    Args:
        names: of `LOGGERS`.
        folder: of the run, whose ``metrics.json`` is there.
        iteration: steps that are done; a training that goes on does so in wandb's and mlflow's runs.

    Raises:
        InputError: one cannot start.
    """
    path = Path(folder) / NAMES
    known = _known(path) if iteration > 0 else {}
    opened: dict[str, Any] = {}
    for name in dict.fromkeys(names):  # each once
        _, kind, way_out = LOGGERS[name]
        try:
            opened[name] = kind(Path(folder), known.get(name, ""))
        except Exception as error:  # of others' packages, whatever it is
            for writer in opened.values():
                writer.close()
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"the logger {name} cannot start ({reason[:LONGEST]}): {way_out}") from None
    if kept := {name: writer.name for name, writer in opened.items() if writer.name}:
        write_atomically(path, lambda file: file.write(json.dumps(kept).encode()))
    return [_Guarded(name, writer) for name, writer in opened.items()]


def _known(path: Path) -> dict[str, str]:
    """Names of the runs, of a training that was stopped."""
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


class _Guarded:
    """A writer whose failure is no reason for a training to end."""

    def __init__(self, name: str, writer: Writer) -> None:
        self._name = name
        self._writer: Writer | None = writer

    def add(self, **values: Any) -> None:
        self._try(lambda writer: writer.add(**values))

    def close(self) -> None:
        self._try(lambda writer: writer.close())

    def _try(self, do: Callable[[Writer], object]) -> None:
        if self._writer is None:
            return
        try:
            do(self._writer)
        except Exception as error:  # of others' packages, whatever it is
            reason = " ".join(str(error).split())[:LONGEST] or type(error).__name__
            logger.warning("%s takes no more lines (%s); metrics.json goes on", self._name, reason)
            self._writer = None


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in values.items() if isinstance(value, int | float) and math.isfinite(value)}
