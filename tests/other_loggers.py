"""wandb and mlflow as loggers (hiera_det/engine/loggers.py), by the packages themselves, which the tests do not have.

Example:
    pip install wandb mlflow
    python -m pytest tests/other_loggers.py
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from hiera_det.engine.events import MetricsFile
from hiera_det.engine.loggers import open_loggers
from hiera_det.engine.record import write_record


def train(folder: Path, loggers: list[str], first: int, last: int) -> None:
    """Lines of a training that goes on after step ``first``."""
    metrics = MetricsFile(str(folder), first)
    writers = [metrics, *open_loggers(loggers, str(folder), first)]
    for iteration in range(first + 1, last + 1):
        judged = {"bbox/AP": 10.0 * iteration, "bbox/AP-dog, (big)": math.nan} if iteration % 2 == 0 else {}
        for writer in writers:
            writer.add(iteration=iteration, epoch=iteration / 2, loss=1 / iteration, **judged)
    for writer in writers:
        writer.close()


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    write_record(str(tmp_path), "classify", {"lr": 0.5}, ())
    return tmp_path


def test_wandb_gets_the_lines_offline_and_goes_on_in_the_same_run(
    recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(recorded, ["wandb"], 0, 3)
    train(recorded, ["wandb"], 3, 4)
    name = json.loads((recorded / "loggers.json").read_text())["wandb"]
    first, second = sorted((recorded / "wandb").glob("offline-run-*"))
    assert first.name.endswith(name)
    assert second.name.endswith(name)
    written = (first / f"run-{name}.wandb").read_bytes()
    assert all(word in written for word in (b"bbox/AP", b"loss", b"lr"))


def test_mlflow_gets_the_lines_and_goes_on_in_the_same_run(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    train(recorded, ["mlflow"], 0, 3)
    train(recorded, ["mlflow"], 3, 4)
    client = MlflowClient(tracking_uri=f"sqlite:///{recorded / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'hiera_det'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "loss")] == [
        (step, 1 / step) for step in range(1, 5)
    ]
    assert run.data.metrics["bbox/AP"] == 40.0
    assert run.data.params["lr"] == "0.5"
    assert run.info.status == "FINISHED"
