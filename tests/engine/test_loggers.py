"""Loggers besides metrics.json and TensorBoard (hiera_det/engine/loggers.py); more in tests/other_loggers.py."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import pytest
from other_loggers import train

from hiera_det.engine.events import MetricsFile
from hiera_det.engine.loggers import check_loggers, open_loggers
from hiera_det.errors import InputError


def test_a_csv_has_a_row_for_each_line_and_a_column_for_each_metric_also_of_a_training_that_went_on(
    tmp_path: Path,
) -> None:
    train(tmp_path, ["csv"], 0, 5)
    train(tmp_path, ["csv"], 3, 6)  # as from a checkpoint of step 3
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["iteration", "epoch", "bbox/AP", "bbox/AP-dog, (big)", "loss"]
    assert [(row["iteration"], row["bbox/AP"]) for row in rows] == [
        *(("1", ""), ("2", "20.0"), ("3", ""), ("4", "40.0"), ("5", ""), ("6", "60.0"))
    ]
    assert float(rows[2]["loss"]) == 1 / 3
    assert {row["bbox/AP-dog, (big)"] for row in rows} == {""}  # no number, as null in metrics.json


def test_a_logger_that_fails_warns_once_and_the_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    MetricsFile(str(tmp_path), 0)
    (writer,) = open_loggers(["csv"], str(tmp_path), 0)
    (tmp_path / "metrics.csv").unlink()
    (tmp_path / "metrics.csv").mkdir()
    with caplog.at_level(logging.WARNING, "hiera_det"):
        for iteration in (1, 2):
            writer.add(iteration=iteration, epoch=0.5)
        writer.close()
    (line,) = caplog.messages
    assert line.startswith("csv takes no more lines (")


def test_unknown_and_absent_loggers_are_refused_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="--loggers comet: choose of csv, wandb, mlflow; TensorBoard and"):
        check_loggers(["csv", "comet"], "--loggers")
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(InputError, match="LOGGERS wandb needs wandb: pip install wandb"):
        check_loggers(["wandb"], "LOGGERS")
