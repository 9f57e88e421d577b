"""Epochs to iterations, and values that follow the batch size."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.solver import build_lr_scheduler

from hiera_det.d2.config.load import load_config
from hiera_det.d2.config.schedule import resolve_schedule, scale_to_processes
from hiera_det.errors import InputError

BASE = """
VERSION: 2
SOLVER: {IMS_PER_BATCH: 64, BASE_LR: 1.0e-4, EPOCHS: 100, MILESTONES: [0.5, 0.75], WARMUP_ITERS: 250}
TEST: {EVAL_PERIOD: 5000}
"""


@pytest.fixture
def config(tmp_path: Path) -> Any:
    """Writes files that inherit from `BASE`, and loads them with options."""
    (tmp_path / "base.yaml").write_text(BASE)

    def load(leaf: str = "", *opts: str) -> Any:
        (tmp_path / "leaf.yaml").write_text(f"_BASE_: base.yaml\n{leaf}")
        return load_config(str(tmp_path / "leaf.yaml"), opts)

    return load


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """A registered data set whose JSON lists 1000 images."""
    (tmp_path / "train.json").write_text(json.dumps({"images": [{"id": number} for number in range(1000)]}))
    DatasetCatalog.register("thousand", list)
    MetadataCatalog.get("thousand").set(json_file=str(tmp_path / "train.json"))
    yield "thousand"
    DatasetCatalog.remove("thousand")
    MetadataCatalog.remove("thousand")


def test_epochs_become_iterations_by_the_images_of_the_json(config: Any, dataset: str) -> None:
    cfg = config("SOLVER: {CHECKPOINT_EPOCHS: 5}\nTEST: {EVAL_EPOCHS: 2.5}", "DATASETS.TRAIN", f"('{dataset}',)")
    resolve_schedule(cfg)
    assert cfg.SOLVER.MAX_ITER == 1563  # 100 * 1000 / 64 = 1562.5
    assert cfg.SOLVER.STEPS == (782, 1172)
    assert (cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD) == (79, 40)
    assert cfg.SOLVER.IMAGES_PER_EPOCH == 1000


def test_a_resolved_config_written_down_means_the_same_when_read_again(
    config: Any, dataset: str, tmp_path: Path
) -> None:
    cfg = config("", "DATASETS.TRAIN", f"('{dataset}',)", "SOLVER.IMS_PER_BATCH", "16")
    resolve_schedule(cfg)
    (tmp_path / "saved.yaml").write_text(cfg.dump())
    again = load_config(str(tmp_path / "saved.yaml"))
    resolve_schedule(again)
    assert (again.SOLVER, again.TEST) == (cfg.SOLVER, cfg.TEST)


def test_a_config_written_down_before_it_is_resolved_can_be_read(config: Any, tmp_path: Path) -> None:
    (tmp_path / "saved.yaml").write_text(config().dump())
    assert load_config(str(tmp_path / "saved.yaml")).SOLVER.EPOCHS == 100


@pytest.mark.parametrize(
    ("scaling", "batch", "factor"), [("linear", 16, 0.25), ("sqrt", 16, 0.5), ("linear", 128, 2.0), ("none", 16, 1.0)]
)
def test_an_inherited_learning_rate_follows_the_batch(config: Any, scaling: str, batch: int, factor: float) -> None:
    cfg = config("", "SOLVER.IMS_PER_BATCH", str(batch), "SOLVER.SCALING", scaling)
    assert pytest.approx(1e-4 * factor) == cfg.SOLVER.BASE_LR
    assert (5000 if scaling == "none" else 5000 * 64 / batch) == cfg.TEST.EVAL_PERIOD
    assert cfg.SOLVER.WARMUP_ITERS == 250


def test_scaling_is_said(config: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="hiera_det"):
        config("", "SOLVER.IMS_PER_BATCH", "16")
    said = [record.getMessage() for record in caplog.records]
    assert "SOLVER.BASE_LR 0.0001 is meant for 64 images: now 2.5e-05 for 16 images" in said[0]
    assert not any("MAX_ITER" in line or "STEPS" in line for line in said)  # epochs and milestones say these


@pytest.mark.parametrize(
    ("leaf", "opts"),
    [
        ("SOLVER: {IMS_PER_BATCH: 16, BASE_LR: 3.0e-4}", []),
        ("", ["SOLVER.IMS_PER_BATCH", "16", "SOLVER.BASE_LR", "3e-4"]),
        ("SOLVER: {IMS_PER_BATCH: 16}", ["SOLVER.BASE_LR", "3e-4"]),
    ],
)
def test_what_is_written_with_the_batch_or_after_it_stands(config: Any, leaf: str, opts: list[str]) -> None:
    assert config(leaf, *opts).SOLVER.BASE_LR == 3e-4


def test_a_learning_rate_of_a_file_between_is_scaled_from_the_batch_in_force_there(config: Any) -> None:
    cfg = config("SOLVER: {IMS_PER_BATCH: 32, BASE_LR: 3.0e-4}", "SOLVER.IMS_PER_BATCH", "8")
    assert pytest.approx(3e-4 / 4) == cfg.SOLVER.BASE_LR


def test_iterations_given_later_replace_epochs_and_keep_the_milestones(config: Any) -> None:
    cfg = config("", "SOLVER.MAX_ITER", "1000", "SOLVER.IMS_PER_BATCH", "2")
    resolve_schedule(cfg)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (1000, (500, 750))


def test_steps_given_later_replace_milestones(config: Any) -> None:
    cfg = config("SOLVER: {MAX_ITER: 1000, STEPS: []}")
    resolve_schedule(cfg)
    assert cfg.SOLVER.STEPS == ()


def test_later_bases_of_a_list_count(tmp_path: Path, config: Any) -> None:
    config()
    (tmp_path / "short.yaml").write_text("SOLVER: {MAX_ITER: 90, IMS_PER_BATCH: 32}")
    (tmp_path / "both.yaml").write_text("_BASE_: [base.yaml, short.yaml]")
    cfg = load_config(str(tmp_path / "both.yaml"))
    assert (cfg.SOLVER.EPOCHS, cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR) == (0, 90, 5e-5)


@pytest.mark.parametrize("rule", ["linear", "sqrt", "none"])
def test_another_number_of_processes_keeps_the_images_of_each(config: Any, rule: str) -> None:
    leaf = f"SOLVER: {{REFERENCE_WORLD_SIZE: 8, MAX_ITER: 1000, STEPS: [500], SCALING: {rule}}}"
    cfg = config(leaf)
    scale_to_processes(cfg, 2)
    assert cfg.SOLVER.IMS_PER_BATCH == 16
    factor = {"linear": 0.25, "sqrt": 0.5, "none": 1.0}[rule]
    assert pytest.approx(1e-4 * factor) == cfg.SOLVER.BASE_LR
    assert (cfg.SOLVER.MAX_ITER, tuple(cfg.SOLVER.STEPS)) == ((1000, (500,)) if rule == "none" else (4000, (2000,)))
    before = cfg.clone()
    scale_to_processes(cfg, 2)
    assert cfg == before


def test_whole_numbers_serve_as_fractions_in_files_and_on_the_command_line(config: Any) -> None:
    assert config("SOLVER: {EPOCHS: 12}").SOLVER.EPOCHS == 12.0
    cfg = config("SOLVER: {WEIGHT_DECAY: 0}", "SOLVER.EPOCHS", "7")
    assert (cfg.SOLVER.EPOCHS, cfg.SOLVER.WEIGHT_DECAY) == (7.0, 0.0)
    assert math.isclose(config("", "SOLVER.EPOCHS", "0.5").SOLVER.EPOCHS, 0.5)


@pytest.mark.parametrize(
    ("leaf", "says"),
    [
        ("SOLVER: {EPOCHS: 3, MAX_ITER: 100}", r"leaf\.yaml: SOLVER\.EPOCHS and SOLVER\.MAX_ITER .*keep one"),
        ("SOLVER: {SCALING: cubic}", r"SOLVER\.SCALING 'cubic': choose linear, sqrt or none"),
        ("SOLVER: {EPOCHS: -1}", r"SOLVER\.EPOCHS -1"),
        ("SOLVER: {EPOCHS: .nan}", r"SOLVER\.EPOCHS nan"),
        ("TEST: {EVAL_EPOCHS: -2}", r"TEST\.EVAL_EPOCHS -2"),
        ("SOLVER: {MILESTONES: [0.9, 0.5]}", r"SOLVER\.MILESTONES"),
        ("SOLVER: {MILESTONES: [0.9, 1.5]}", r"SOLVER\.MILESTONES"),
        ("DATASETS: {TRAIN: ['thousand']}\nSOLVER: {REFERENCE_WORLD_SIZE: 7}", r"REFERENCE_WORLD_SIZE 7"),
    ],
)
def test_what_cannot_be_used_is_one_line(config: Any, leaf: str, says: str) -> None:
    def use() -> None:
        cfg = config(leaf)
        scale_to_processes(cfg, 2)
        resolve_schedule(cfg)

    with pytest.raises(InputError, match=says) as caught:
        use()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{}", "[", '{"images": []}', '{"images": 3}'])
def test_a_json_whose_images_cannot_be_counted_is_named(config: Any, dataset: str, content: str) -> None:
    path = Path(MetadataCatalog.get(dataset).json_file)
    path.write_text(content)
    with pytest.raises(InputError, match=r"train\.json"):
        resolve_schedule(config("", "DATASETS.TRAIN", f"('{dataset}',)"))


@pytest.mark.parametrize("length", [*range(1, 15), 1525])
def test_runs_of_any_length_have_steps_that_detectron2_takes(config: Any, length: int) -> None:
    cfg = config("SOLVER: {MILESTONES: [0.888889, 0.962963]}", "SOLVER.MAX_ITER", str(length))
    resolve_schedule(cfg)
    assert all(0 < step < length for step in cfg.SOLVER.STEPS)
    scheduler = build_lr_scheduler(cfg, torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0))
    for _ in range(min(length, 20)):
        scheduler.step()
    if length == 14:
        assert cfg.SOLVER.STEPS == (12, 13)
    if length == 1525:
        assert cfg.SOLVER.STEPS == (1356, 1469)


def test_inherited_steps_beyond_the_end_are_said_and_left_out(config: Any, caplog: pytest.LogCaptureFixture) -> None:
    cfg = config("SOLVER: {MAX_ITER: 4000, STEPS: [3400, 3850]}", "SOLVER.MAX_ITER", "1000")
    resolve_schedule(cfg)
    assert cfg.SOLVER.STEPS == ()
    assert any("SOLVER.MAX_ITER 1000, so the learning rate drops never" in message for message in caplog.messages)
    cfg = config("SOLVER: {MAX_ITER: 4000, STEPS: [500, 3850]}", "SOLVER.MAX_ITER", "1000")
    resolve_schedule(cfg)
    assert cfg.SOLVER.STEPS == (500,)


@pytest.mark.parametrize(("length", "told"), [("499", True), ("500", False)])
def test_a_warm_up_over_most_of_the_run_is_told(
    config: Any, length: str, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    resolve_schedule(config("SOLVER: {WARMUP_ITERS: 250}", "SOLVER.MAX_ITER", length))
    assert any(message.startswith("SOLVER.WARMUP_ITERS 250") for message in caplog.messages) == told


@pytest.mark.parametrize(
    ("leaf", "opts", "says"),
    [
        ("SOLVER: {MAX_ITER: 1000, STEPS: [500, 3850]}", [], "ends at SOLVER.MAX_ITER 1000"),
        ("SOLVER: {MAX_ITER: 1000}", ["SOLVER.STEPS", "(1000,)"], "SOLVER.STEPS (1000,): the training ends"),
        ("", ["SOLVER.STEPS", "(30, 20)"], "SOLVER.STEPS (30, 20): give rising iterations"),
    ],
)
def test_steps_that_the_training_does_not_reach_are_refused(config: Any, leaf: str, opts: list[str], says: str) -> None:
    with pytest.raises(InputError) as caught:
        config(leaf, *opts)
    assert says in str(caught.value)


def test_steps_in_a_config_written_down_whole_may_lie_beyond(config: Any, tmp_path: Path) -> None:
    cfg = config("SOLVER: {MAX_ITER: 4000, STEPS: [3400, 3850]}")
    cfg.SOLVER.MAX_ITER = 1000
    (tmp_path / "saved.yaml").write_text(cfg.dump())
    assert load_config(str(tmp_path / "saved.yaml")).SOLVER.MAX_ITER == 1000
