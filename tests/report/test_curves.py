"""Curves of every kind of training, from whatever its metrics.json holds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hiera_det.engine.events import read_metrics
from hiera_det.report.curves import draw_curves, find_scores, running_median, series_of


def write_metrics(folder: Path, lines: list[dict[str, Any]], tail: str = "") -> Path:
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    return folder


def test_later_lines_of_an_iteration_win_and_broken_lines_are_left_out(tmp_path: Path) -> None:
    lines = [
        {"iteration": 0, "total_loss": 3.0, "lr": 0.1},
        {"iteration": 20, "total_loss": None, "bbox/AP": math.nan},
        {"iteration": 40, "total_loss": 9.0},
        {"iteration": 40, "total_loss": 1.0},
    ]
    folder = write_metrics(tmp_path, lines, tail='{"iteration": 60, "total_lo')
    series = series_of(read_metrics(folder / "metrics.json"), "iteration")
    places, values = series["total_loss"]
    assert places.tolist() == [0, 20, 40]
    assert values[[0, 2]].tolist() == [3.0, 1.0]
    assert math.isnan(values[1])
    assert find_scores(series) == []


@pytest.mark.parametrize("evaluated", [True, False])
@pytest.mark.parametrize("trained", [True, False])
def test_a_detectors_curves_are_drawn_from_whatever_there_is(tmp_path: Path, evaluated: bool, trained: bool) -> None:
    lines: list[dict[str, Any]] = [{"iteration": 0, "time": 1.0}]
    for iteration in range(0, 200, 20):
        if trained:
            loss = math.nan if iteration == 60 else 2 / (1 + iteration)
            lines.append({"iteration": iteration, "total_loss": loss, "loss_mask": loss / 2, "lr": 0.01})
        if evaluated and iteration % 100 == 0:
            lines.append({"iteration": iteration, "bbox/AP": 30.0, "data/segm/AP50": math.nan, "segm/AP": 20.0})
    drawn = draw_curves(write_metrics(tmp_path, lines, tail='{"iteration": 200, "tot'))
    assert drawn == tmp_path / "curves.png"
    assert Image.open(drawn).size == (1430, 605)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["curves.png", "metrics.json"]


@pytest.mark.parametrize(("scores", "width"), [({}, 715), ({"top1": 0.5, "top5": 0.9}, 1430)])
def test_the_other_trainings_count_in_epochs_and_have_a_panel_for_accuracy(
    tmp_path: Path, scores: dict[str, float], width: int
) -> None:
    lines = [{"iteration": n, "epoch": n / 10, "loss": 1 / n, "lr": 1e-3} for n in range(1, 40)]
    folder = write_metrics(tmp_path, [*lines, {"iteration": 39, "epoch": 3.9, **scores}])
    assert Image.open(draw_curves(str(folder))).size == (width, 605)
    assert series_of(lines, "epoch")["loss"][0][-1] == pytest.approx(3.9)


def test_scores_of_several_data_sets_keep_their_names() -> None:
    lines = [{"iteration": 5, "fruit/bbox/AP": 12.5, "bbox/APm": 3.0}]
    ((label, *_, (places, values)),) = find_scores(series_of(lines, "iteration"))
    assert label == "fruit box AP"
    assert (places.tolist(), values.tolist()) == ([5], [12.5])


def test_the_median_follows_the_values_past_a_gap() -> None:
    values = np.array([1.0] * 50 + [math.nan] + [100.0] + [1.0] * 50)
    smooth = running_median(values)
    assert math.isnan(smooth[50])
    assert np.nanmax(smooth) == 1.0


def test_without_metrics_nothing_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no metrics to draw.*metrics\.json"):
        draw_curves(tmp_path)
    assert not list(tmp_path.iterdir())
