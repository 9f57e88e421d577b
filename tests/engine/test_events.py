"""metrics.json (hiera_det/engine/events.py)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from hiera_det.engine.events import MetricsFile, last_iteration, read_metrics


def test_what_is_no_number_in_json_is_null(tmp_path: Path) -> None:
    MetricsFile(str(tmp_path), 0).add(iteration=1, loss=math.nan, lr=math.inf, top1=0.5)
    text = (tmp_path / "metrics.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"iteration": 1, "loss": None, "lr": None, "top1": 0.5}


def test_lines_beyond_the_iteration_and_cut_off_ones_go(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 1}\n[1]\n{"loss": 1}\n{"iteration": 2}\n\xff\n{"iteration": 3}\n{"iterat')
    assert last_iteration(str(tmp_path)) == 3
    MetricsFile(str(tmp_path), 2).add(iteration=3, loss=1.0)
    assert [line["iteration"] for line in read_metrics(path)] == [1, 2, 3]
    assert last_iteration(str(tmp_path / "none")) == 0


def test_lines_that_a_full_disk_had_no_room_for_come_with_later_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = MetricsFile(str(tmp_path), 0)
    metrics.add(iteration=1)

    def full(self: Any, *arguments: Any, **options: Any) -> None:
        with open(tmp_path / "metrics.json", "a") as file:
            file.write('{"itera')  # as much as there is room for
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    metrics.add(iteration=2)
    metrics.add(iteration=3)
    monkeypatch.undo()
    metrics.add(iteration=4)
    assert [line["iteration"] for line in read_metrics(tmp_path / "metrics.json")] == [1, 2, 3, 4]
    assert len([message for message in caplog.messages if "No space left" in message]) == 1


def test_a_folder_that_somebody_removed_is_made_again(tmp_path: Path) -> None:
    metrics = MetricsFile(str(tmp_path), 0)
    (tmp_path / "metrics.json").unlink()
    tmp_path.rmdir()
    metrics.add(iteration=1)
    assert last_iteration(str(tmp_path)) == 1
