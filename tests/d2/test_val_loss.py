"""Losses on the images of an evaluation, the best weights, patience, and checkpoints at the ends of epochs."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.utils.events import EventStorage

from hiera_det.d2.config.setup import setup_config
from hiera_det.d2.train.run import start
from hiera_det.d2.train.trainer import Trainer
from hiera_det.d2.train.val_loss import measure_losses
from hiera_det.data.shapes import ShapesPaths, write_shapes_dataset
from hiera_det.engine.events import read_metrics
from hiera_det.engine.stop import Stop
from hiera_det.errors import InputError
from hiera_det.weights.sources import read_weight_file

Arguments = Callable[..., Any]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> ShapesPaths:
    return write_shapes_dataset(tmp_path_factory.mktemp("shapes"), train=4, val=3, size=64)


def test_losses_are_those_of_the_heads_the_same_each_time_and_leave_no_trace(
    tmp_path: Path, shapes: ShapesPaths, training_arguments: Arguments
) -> None:
    cfg = setup_config(training_arguments(tmp_path, shapes, "MODEL.HIERA.DROP_PATH_RATE", "0.5"))
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).train()
    model.backbone.eval()
    state = torch.get_rng_state(), random.getstate()
    with EventStorage() as storage:
        first, again = (
            measure_losses(model, Trainer.build_loss_loader(cfg, cfg.DATASETS.TEST[0]), Stop()) for _ in range(2)
        )
    assert first == again
    parts = {"val_loss_cls", "val_loss_box_reg", "val_loss_mask", "val_loss_rpn_cls", "val_loss_rpn_loc"}
    assert first.keys() == parts | {"val_loss"}
    assert first["val_loss"] == pytest.approx(sum(first[name] for name in parts))
    assert not storage.latest()
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1] == random.getstate()
    assert model.training
    assert not model.backbone.training


def test_patience_ends_a_training_whose_best_weights_checkpoints_and_losses_are_kept(
    tmp_path: Path, shapes: ShapesPaths, training_arguments: Arguments
) -> None:
    keys = ["SOLVER.MAX_ITER", "9", "SOLVER.STEPS", "()", "SOLVER.MILESTONES", "[]", "SOLVER.BASE_LR", "1e-12"]
    keys += ["TEST.EVAL_PERIOD", "1", "TEST.BEST", "val_loss", "TEST.PATIENCE", "1", "SEED", "1"]
    keys += ["LOGGERS", "['csv']"]
    start(training_arguments(tmp_path, shapes, *keys))
    lines = [line for line in read_metrics(tmp_path / "metrics.json") if "val_loss" in line]
    ended = len(lines)
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val_loss"]]
    assert [float(row["val_loss"]) for row in rows] == [line["val_loss"] for line in lines]
    assert 2 <= ended < 9
    assert read_weight_file(tmp_path / "model_final.pth")["iteration"] == ended - 1
    best = read_weight_file(tmp_path / "model_best.pth")["best"]
    assert best["value"] == min(line["val_loss"] for line in lines)
    assert (tmp_path / f"model_{1:07d}.pth").is_file()  # of the first epoch, 2 steps
    start(training_arguments(tmp_path, shapes, *keys, resume=True))
    assert read_weight_file(tmp_path / "model_final.pth")["iteration"] == ended - 1


def test_patience_needs_an_evaluation(tmp_path: Path, shapes: ShapesPaths, training_arguments: Arguments) -> None:
    none = {"val_json": "", "val_images": ""}
    with pytest.raises(InputError, match=r"TEST\.PATIENCE 1: nothing is evaluated"):
        setup_config(training_arguments(tmp_path, shapes, "TEST.PATIENCE", "1", **none))
