"""What differs between a checkpoint's settings and those with which it is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hiera_det.d2.config.changes import changed_settings
from hiera_det.d2.config.load import load_config

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
    import yaml

    saved = yaml.safe_load(config().dump())
    del saved["SOLVER"]["EMA_DECAY"]
    assert changed_settings(saved, config("SOLVER.EMA_DECAY", "0.9")) == []
