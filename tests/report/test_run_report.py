"""Reports of runs that are no detectors'."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from hiera_det import open_run


@pytest.mark.parametrize(
    ("task", "metrics", "told"),
    [
        ("pretrain", {"loss": 0.75}, ["a masked autoencoder", "0.75", "reconstructions.png"]),
        ("classify", {"loss": 0.5, "top1": 0.875}, ["a classifier", "0.875", "top-1"]),
    ],
)
def test_it_has_curves_pictures_settings_and_environment(
    tmp_path: Path, task: str, metrics: dict[str, float], told: list[str]
) -> None:
    record = {"task": task, "asked": {"epochs": 3, "images": "/photos/<i>"}, "environment": {"torch": "9.9.9"}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    if task == "pretrain":
        Image.new("RGB", (40, 20), "red").save(tmp_path / "reconstructions.png")
    lines = [{"iteration": n, "epoch": n / 2, **metrics} for n in range(1, 5)]
    (tmp_path / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = open_run(tmp_path).report().read_text()
    for words in (*told, "9.9.9", "/photos/&lt;i&gt;", "<svg", "losses"):
        assert words in text
    assert "/photos/<i>" not in text
    assert ("data:image/jpeg" in text) == (task == "pretrain")


def test_a_run_that_has_just_begun_has_one_too(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"task": "classify", "asked": {}}))
    text = open_run(tmp_path).report().read_text()
    assert "There are no metrics yet." in text
    assert "this is what the report was written on" in text
