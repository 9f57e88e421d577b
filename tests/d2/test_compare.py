"""Detectors compared under equal seconds: the same steps for all seeds, a run once only, tables and refusals."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hiera_det.cli import compare as command
from hiera_det.d2.compare.plan import Comparison
from hiera_det.d2.compare.run import compare
from hiera_det.d2.compare.variants import RESNETS, Variant, read_variants, trunk_keys
from hiera_det.d2.config.load import load_config
from hiera_det.data.shapes import ShapesPaths, write_shapes_dataset
from hiera_det.errors import InputError
from hiera_det.report.comparison import draw_comparison, format_comparison

#: A detector whose step takes some hundredths of a second.
SMALL = {
    "MODEL.HIERA.EMBED_DIM": 16,
    "MODEL.HIERA.DEPTHS": [1, 1, 1, 1],
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 16,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "INPUT.MIN_SIZE_TEST": 64,
    "TEST.DETECTIONS_PER_IMAGE": 5,
    "MODEL.DEVICE": "cpu",
}
NAMES = ("train_json", "train_images", "val_json", "val_images")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> ShapesPaths:
    return write_shapes_dataset(tmp_path_factory.mktemp("data") / "shapes", train=6, val=2, size=64)


def comparison(shapes: ShapesPaths, out: Path, *words: list[str], **settings: Any) -> Comparison:
    trunks = settings.pop("trunks", ["quick_start"])
    settings = {"seconds": 2.5, "seeds": (0,), "evaluations": 2} | settings
    data = {name: str(getattr(shapes, name)) for name in NAMES}
    opts = {key: value for key, value in SMALL.items() if "HIERA" not in key or "resnet18_fpn" not in trunks}
    return Comparison("quick_start", read_variants("quick_start", trunks, words), data, str(out), opts=opts, **settings)


def test_two_variants_end_in_a_table_and_are_not_run_again(shapes: ShapesPaths, tmp_path: Path) -> None:
    asked = comparison(shapes, tmp_path / "out", ["fast", "SOLVER.BASE_LR", "1e-3", "SECONDS", "2"])
    lines: list[str] = []
    content = compare(asked, lines.append)
    plain, fast = content["variants"]["quick_start"], content["variants"]["fast"]
    assert (plain["budget"], fast["budget"]) == (2.5, 2.0)
    assert plain["steps"] == round(2.5 / plain["step_seconds"])
    points = plain["runs"]["0"]["points"]
    assert [point["iteration"] for point in points] == [-(-plain["steps"] // 2), plain["steps"]]
    assert 0 < points[0]["seconds"] < points[1]["seconds"]
    assert "bbox/AP" in points[1]
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == content
    assert (tmp_path / "out" / "results.md").read_text().splitlines()[-1].startswith("| fast | 1 |")
    assert Image.open(tmp_path / "out" / "curves.png").size[0] > 1000
    assert not list(tmp_path.rglob("*.pth"))
    assert any("quick_start: 2.5 s are" in line and "the schedule ends with them" in line for line in lines)

    lines.clear()
    again = comparison(shapes, tmp_path / "out", seeds=(0,))
    assert compare(again, lines.append) == content
    assert "1 of 1 runs are finished already" in lines


def test_a_run_takes_its_steps_and_its_warm_up_is_a_tenth_of_them(shapes: ShapesPaths, tmp_path: Path) -> None:
    asked = comparison(shapes, tmp_path / "out")
    variant = Variant("a")
    given = dict(zip(*[iter(asked.request(variant, 50, 3, "out").opts)] * 2, strict=True))
    assert (given["SOLVER.MAX_ITER"], given["SOLVER.WARMUP_ITERS"], given["SEED"]) == (50, 5, 3)
    assert asked.warm_up(variant, 10**6) == load_config("quick_start").SOLVER.WARMUP_ITERS
    assert asked.warm_up(Variant("a", {"SOLVER.WARMUP_ITERS": "40"}), 50) == 40


def test_a_dry_run_says_what_it_takes_and_keeps_nothing(shapes: ShapesPaths, tmp_path: Path) -> None:
    lines: list[str] = []
    asked = comparison(shapes, tmp_path / "out", trunks=["quick_start", "resnet18_fpn"], seconds=300)
    compare(asked, lines.append, dry_run=True)
    assert lines[0] == "timing the steps of quick_start, resnet18_fpn"
    assert lines[-1].startswith("2 runs, 0:10:00 of training")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("trunk", [*RESNETS, "mask_rcnn_hiera_s", "mask_rcnn_hieradet_t"])
def test_every_trunk_goes_under_the_heads_of_a_config(trunk: str) -> None:
    cfg = load_config("quick_start", trunk_keys("quick_start", trunk))
    own = load_config("quick_start")
    assert (cfg.MODEL.ROI_HEADS, cfg.MODEL.RPN, cfg.INPUT, cfg.SOLVER) == (
        own.MODEL.ROI_HEADS,
        own.MODEL.RPN,
        own.INPUT,
        own.SOLVER,
    )
    assert (cfg.MODEL.HIERA, cfg.MODEL.RESNETS) != (own.MODEL.HIERA, own.MODEL.RESNETS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "--variant a: differs in nothing"),
        (["a", "resnet19_fpn"], "resnet19_fpn: no trunk: neither resnet18_fpn"),
        (["a/b", "SEED", "1"], "--variant a/b: its name is a folder's"),
        (["Quick_Start", "SEED", "1"], "Quick_Start: is there twice"),
        (["a", "SECONDS", "nan"], "--variant a SECONDS nan: give a number of seconds"),
    ],
)
def test_variants_that_cannot_be_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        read_variants("quick_start", ["quick_start"], [words])


def test_refusals_are_one_line_and_a_wrong_key_comes_before_a_folder_is_made(
    shapes: ShapesPaths, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for settings, message in [
        ({"seconds": -1}, "--seconds -1: give a number above 0"),
        ({"seeds": (1, 1)}, "--seeds 1 1: give different numbers"),
        ({"evaluations": 0}, "--evaluations 0: must be at least 1"),
    ]:
        with pytest.raises(InputError, match=f"^{message}"):
            comparison(shapes, out, **settings)
    with pytest.raises(InputError, match=r"SOLVER\.BASE_LRR 1: unknown config key"):
        compare(comparison(shapes, out, ["a", "SOLVER.BASE_LRR", "1"]), str)
    assert not out.exists()
    with pytest.raises(InputError, match=r"^--seconds 0\.01: are 0 steps of quick_start; give at least \d"):
        compare(comparison(shapes, out, seconds=0.01), str)
    with pytest.raises(
        InputError, match=r"^SOLVER\.MAX_ITER: the comparison sets it itself, by its flags; leave it out"
    ):
        comparison(shapes, out, ["a", "SOLVER.MAX_ITER", "9"])


def test_a_folder_with_other_settings_is_left_alone(shapes: ShapesPaths, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    asked = comparison(shapes, tmp_path)
    path.write_text(json.dumps({"settings": asked.settings() | {"seconds": 9.0}, "variants": {}}))
    with pytest.raises(InputError, match=r"was made with seconds 9\.0, not 2\.5; choose another --output"):
        compare(asked, str)
    path.write_text("[]")
    with pytest.raises(InputError, match="is no comparison's; choose another --output"):
        compare(asked, str)


def test_the_table_has_means_spans_failures_and_averaged_weights(tmp_path: Path) -> None:
    def run(ap: float, **more: float) -> dict[str, Any]:
        points = [{"iteration": 5, "seconds": 1.0, "bbox/AP": 0.0}]
        return {"steps": 10, "points": [*points, {"iteration": 10, "seconds": 2.0, "bbox/AP": ap, **more}]}

    failed = {"steps": 10, "failed": "a loss is not finite", "points": []}
    variants = {
        "a": {"steps": 10, "runs": {"0": run(10.0), "1": run(13.0)}},
        "b": {"steps": 10, "runs": {"0": run(1.0, **{"ema/bbox/AP": 2.0}), "1": failed}},
        "c": {"steps": 10, "runs": {"0": failed}},
    }
    assert format_comparison({"variants": variants}).splitlines() == [
        "| variant | seeds | steps | seconds | box AP |",
        "| --- | --- | --- | --- | --- |",
        "| a | 2 | 10 | 2 | 11.5 (10.0 to 13.0) |",
        "| b | 1, 1 failed | 10 | 2 | 1.0 |",
        "| b, averaged | 1, 1 failed | 10 | 2 | 2.0 |",
        "| c | 0, 1 failed | 10 |  |  |",
    ]
    variants["a"]["runs"]["0"]["points"][1]["segm/AP"] = 90.0  # beyond the other panel's
    draw_comparison({"variants": variants}, tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").size == (1320, 550)


def test_the_command_asks_for_one_kind_of_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["hiera-det compare", "--output", os.fspath(tmp_path)])
    with pytest.raises(InputError, match=r"^give data: --train-json and its like, --data, or --made shapes"):
        command.main()
    sys.argv += ["--made", "cells", "--made-images", "0"]
    with pytest.raises(InputError, match="train 0: must be at least 1"):
        command.main()
