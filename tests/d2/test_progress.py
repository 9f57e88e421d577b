"""Speed, data loading, memory and epoch among the metrics and in the log line."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from detectron2.utils.events import EventStorage

from hiera_det.d2.train.progress import Throughput, build_writers
from hiera_det.engine.progress import peak_memory


def steps(out: Path, images_per_epoch: int) -> list[str]:
    """Four steps of 8 images in half a second each, a fifth of it data loading; the log's lines."""
    hook = Throughput(8, images_per_epoch)
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("detectron2.utils.events")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with EventStorage() as storage:
            hook.trainer = SimpleNamespace(storage=storage, iter=0)
            writers = build_writers(str(out), 8, 8, images_per_epoch)
            for hook.trainer.iter in range(4):
                storage.put_scalars(time=0.5, data_time=0.1, total_loss=3.0)
                hook.after_step()
                storage.step()
            for writer in writers:
                writer.write()
                writer.close()
    finally:
        logger.removeHandler(handler)
    return lines


def test_the_line_keeps_detectron2s_beginning_and_ends_with_speed_and_epoch(tmp_path: Path) -> None:
    (line,) = steps(tmp_path, 16)
    assert "total_loss: 3" in line
    assert line.index("total_loss") < line.index("epoch: 2.00/4")
    assert "images/s: 16  data loading: 20%" in line
    assert "mem" in line


def test_the_figures_are_metrics(tmp_path: Path) -> None:
    steps(tmp_path, 16)
    metrics: dict[str, float] = {}
    for line in (tmp_path / "metrics.json").read_text().splitlines():
        metrics |= json.loads(line)
    assert metrics["images_per_second"] == pytest.approx(16)
    assert metrics["data_share"] == pytest.approx(0.2)
    assert metrics["epoch"] == pytest.approx(2.0)
    assert metrics["peak_memory_mib"] == pytest.approx(peak_memory(), rel=0.1)
    assert metrics["peak_memory_mib"] > 50  # the process holds PyTorch


def test_without_the_number_of_images_there_is_no_epoch(tmp_path: Path) -> None:
    (line,) = steps(tmp_path, 0)
    assert "epoch" not in line
    assert "epoch" not in (tmp_path / "metrics.json").read_text()
