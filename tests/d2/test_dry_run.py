"""What a whole run will take, from three steps."""

from __future__ import annotations

import dataclasses
import logging
import re
from pathlib import Path

import pytest
import torch

from hiera_det.d2.config.setup import setup_config
from hiera_det.d2.train.dry_run import Forecast, dry_run
from hiera_det.data.shapes import write_shapes_dataset
from hiera_det.errors import InputError

FORECAST = Forecast(
    images_per_step=64,
    first_step=9.0,
    step=1.5,
    data_share=0.04,
    memory=12345.6,
    evaluation_batch=1,
    evaluation_time=0.1,
    steps=184824,
    evaluations=37,
    test_images=5000,
    processes=8,
    on_gpu=True,
    checkpoints=37,
    checkpoint_size=900 * 2**20,
)


def test_hours_and_costs_are_multiplied_out() -> None:
    assert FORECAST.training_hours == pytest.approx(184824 * 1.5 / 3600)
    assert FORECAST.evaluation_hours == pytest.approx(37 * 625 * 0.1 / 3600)
    report = FORECAST.report(price=2.0)
    assert "42.7 images/s, 4% of it data loading" in report
    assert "12346 MiB per GPU" in report
    assert "77.7 hours, 621.2 GPU-hours, 1242.44 at 2 each" in report
    assert "37 of about 900 MiB: 32.5 GiB" in report
    assert "at 2 each" not in FORECAST.report()


def test_a_run_without_evaluation_has_no_time_for_it() -> None:
    assert dataclasses.replace(FORECAST, evaluation_time=0.0).evaluation_hours == 0


def test_a_dry_run_measures_says_what_it_does_and_keeps_nothing(
    tmp_path: Path, training_arguments: object, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_shapes_dataset(tmp_path / "data", train=6, val=3, size=64)
    args = training_arguments(tmp_path / "out", data, "SOLVER.EPOCHS", "10", "SOLVER.MILESTONES", "[0.5]", dry_run=True)
    before = set(tmp_path.rglob("*"))
    with caplog.at_level(logging.INFO, "hiera_det.say"):
        forecast = dry_run(setup_config(args))
    said = [message for message in caplog.messages if message.startswith("dry run: ")]
    assert said[0] == "dry run: building the model, and 3 steps of 2 images"
    assert "dry run: a step of the largest images, for the memory" in said
    assert set(tmp_path.rglob("*")) == before
    assert (forecast.steps, forecast.images_per_step, forecast.test_images) == (30, 2, 3)
    assert (forecast.evaluations, forecast.checkpoints, forecast.processes) == (1, 1, 1)
    assert forecast.step > 0
    assert forecast.evaluation_time > 0
    assert 0 <= forecast.data_share <= 1
    assert re.search(r"training +30 steps: \d", forecast.report())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_too_little_memory_is_one_line_with_what_to_change(
    error: RuntimeError, tmp_path: Path, training_arguments: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_shapes_dataset(tmp_path / "data", train=6, val=3, size=64)
    cfg = setup_config(training_arguments(tmp_path / "out", data))

    def exhausted(*args: object) -> None:
        raise error

    monkeypatch.setattr(torch.optim.AdamW, "step", exhausted)
    keys = r"raise SOLVER\.ACCUMULATE, lower INPUT\.MIN_SIZE_TRAIN, or set MODEL\.HIERA\.USE_CHECKPOINT True$"
    with pytest.raises(InputError, match=f"2 images per process and forward, shorter side 64 pixels.*; {keys}"):
        dry_run(cfg)
