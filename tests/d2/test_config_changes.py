"""What differs between a checkpoint's settings and those with which it is resumed."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hiera_det.d2.config.changes import changed_settings
from hiera_det.d2.config.load import load_config
from hiera_det.d2.config.setup import setup_config
from hiera_det.d2.train.trainer import Trainer
from hiera_det.data.shapes import ShapesPaths, write_shapes_dataset
from hiera_det.errors import InputError

TINY = str(Path(__file__).parents[2] / "configs" / "quick_start.yaml")


def config(*opts: str) -> Any:
    return load_config(TINY, ["SOLVER.MAX_ITER", "100", *opts])


@pytest.mark.parametrize(
    ("opts", "changed"),
    [
        (["SOLVER.BASE_LR", "1.0"], [("SOLVER.BASE_LR", 3.5e-4, 1.0)]),
        (["SOLVER.WEIGHT_DECAY", "0.3"], [("SOLVER.WEIGHT_DECAY", 0.05, 0.3)]),
        (["SOLVER.IMS_PER_BATCH", "4", "SOLVER.BASE_LR", "3.5e-4"], [("SOLVER.IMS_PER_BATCH", 2, 4)]),
        (["SOLVER.MAX_ITER", "3"], [("SOLVER.MAX_ITER", 100, 3)]),
        (["SOLVER.MAX_ITER", "300"], []),
        (["DATASETS.TRAIN", "('other',)"], [("DATASETS.TRAIN", ("coco_2017_train",), ("other",))]),
        (["INPUT.MIN_SIZE_TRAIN", "(96,)"], [("INPUT.MIN_SIZE_TRAIN", (160,), (96,))]),
        (["SEED", "3"], [("SEED", -1, 3)]),
        (["OUTPUT_DIR", "elsewhere", "TEST.PICTURES", "0", "DATALOADER.NUM_WORKERS", "0", "MODEL.DEVICE", "cpu"], []),
        (
            ["INPUT.MIN_SIZE_TEST", "96", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.5", "SOLVER.CHECKPOINT_PERIOD", "7"],
            [],
        ),
    ],
)
def test_what_makes_another_training_is_named(opts: list[str], changed: list[tuple[str, Any, Any]]) -> None:
    found = changed_settings(config(), config(*opts))
    assert [change for change in found if change[0] not in ("SOLVER.STEPS", "TEST.EVAL_PERIOD")] == changed


def test_a_longer_training_under_a_cosine_is_another_training() -> None:
    cosine = ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"]
    found = changed_settings(config(*cosine), config(*cosine, "SOLVER.MAX_ITER", "300"))
    assert [key for key, *_ in found] == ["SOLVER.MAX_ITER"]


def test_a_config_that_was_written_down_is_compared_by_value_and_by_the_keys_it_has() -> None:
    saved = yaml.safe_load(config().dump())
    del saved["SOLVER"]["EMA_DECAY"]
    assert changed_settings(saved, config("SOLVER.EMA_DECAY", "0.9")) == []


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ShapesPaths:
    return write_shapes_dataset(tmp_path_factory.mktemp("changes") / "data", train=4, val=2, size=64)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, training_arguments: Any, data: ShapesPaths) -> Any:
    """Makes the trainer of a run that goes on after one step, with other settings."""
    folder = tmp_path_factory.mktemp("stopped")

    def trainer(*opts: str, resume: bool = True, **flags: Any) -> Trainer:
        # A second run gets a folder of its own: the first one's is locked and written to while it trains.
        length = () if "SOLVER.EPOCHS" in opts else ("SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()")
        words = (*length, *opts)
        request = replace(training_arguments(folder / "out", data, *words), resume=resume, **flags)
        return Trainer(setup_config(request, check_files=False))

    first = trainer(resume=False)
    first.resume_or_load(False)
    first.max_iter = 1
    first.train()
    return trainer


@pytest.mark.parametrize(
    ("opts", "says"),
    [
        (["SOLVER.BASE_LR", "0.5"], "SOLVER.BASE_LR 0.00035, now it is 0.5"),
        (["SOLVER.WEIGHT_DECAY", "0.5"], "--allow-changed SOLVER.WEIGHT_DECAY"),
        (["SOLVER.IMS_PER_BATCH", "4", "SOLVER.BASE_LR", "3.5e-4"], "SOLVER.IMS_PER_BATCH 2, now it is 4"),
        (["SOLVER.MAX_ITER", "1"], "SOLVER.MAX_ITER 2, now it is 1"),
    ],
)
def test_a_changed_setting_ends_a_resume_in_one_line_unless_it_is_allowed(
    stopped: Any, opts: list[str], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = stopped(*opts)
    with pytest.raises(InputError) as caught:
        trainer.resume_or_load(True)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    trainer = stopped(*opts)
    trainer.resume_or_load(True, [opts[0]])
    assert trainer.start_iter == 1
    assert any(f"{opts[0]} was" in message for message in caplog.messages)


def test_a_training_that_has_gone_further_than_it_is_to_is_refused(stopped: Any) -> None:
    trainer = stopped()
    trainer.max_iter = 0
    with pytest.raises(InputError, match=r"--resume: 1 iterations are done, and SOLVER\.MAX_ITER is 0: give more"):
        trainer.resume_or_load(True)


def test_the_same_settings_go_on_and_an_unknown_key_to_allow_is_refused(stopped: Any) -> None:
    trainer = stopped("SOLVER.MAX_ITER", "4")  # longer
    trainer.resume_or_load(True)
    assert trainer.start_iter == 1
    with pytest.raises(InputError, match=r"--allow-changed SOLVER\.LR: no key"):
        trainer.resume_or_load(True, ["SOLVER.LR"])


@pytest.mark.parametrize(
    ("opts", "given", "allowed"),
    [
        (["SOLVER.IMS_PER_BATCH", "4", "SOLVER.SCALING", "linear"], [], ["SOLVER.IMS_PER_BATCH"]),
        (["SOLVER.EPOCHS", "4", "SOLVER.MILESTONES", "[0.5]"], ["SOLVER.EPOCHS"], ["SOLVER.EPOCHS"]),
    ],
)
def test_what_follows_from_an_allowed_change_needs_no_word_of_its_own(
    stopped: Any, opts: list[str], given: list[str], allowed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InputError) as caught:
        stopped(*opts).resume_or_load(True, [], given)
    own_word = "SOLVER.MAX_ITER" if "SOLVER.EPOCHS" in given else opts[0]
    assert f"give --allow-changed {own_word}" in str(caught.value)
    stopped(*opts).resume_or_load(True, allowed, given)
    follower = "SOLVER.STEPS" if "SOLVER.EPOCHS" in given else "SOLVER.BASE_LR"
    assert any(f"{follower} was" in message for message in caplog.messages)


def test_what_is_given_by_hand_follows_from_nothing(stopped: Any) -> None:
    opts = ["SOLVER.IMS_PER_BATCH", "4", "SOLVER.BASE_LR", "0.5"]
    with pytest.raises(InputError, match=r"give --allow-changed SOLVER\.BASE_LR"):
        stopped(*opts).resume_or_load(True, ["SOLVER.IMS_PER_BATCH"], opts[0::2])


def test_data_that_have_moved_go_on_and_other_data_are_refused(
    stopped: Any, data: ShapesPaths, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shutil.copytree(data.train_images, tmp_path / "images")
    content = json.loads(data.train_json.read_text())
    moved = {"train_json": str(tmp_path / "moved.json"), "train_images": str(tmp_path / "images")}
    (tmp_path / "moved.json").write_text(json.dumps(content, indent=3))
    trainer = stopped(**moved)
    trainer.resume_or_load(True)
    assert trainer.start_iter == 1
    assert any("the training data lie elsewhere" in message for message in caplog.messages)
    content["annotations"][0]["bbox"][2] -= 1
    (tmp_path / "moved.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"was made with DATASETS\.TRAIN data of content \w+, now it is data of"):
        stopped(**moved).resume_or_load(True)
    stopped(**moved).resume_or_load(True, ["DATASETS.TRAIN"])
