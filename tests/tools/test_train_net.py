"""tools/train_net.py as a user runs it: in its own process, on a data set of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

from hiera_det.datasets.shapes import ShapesPaths, write_shapes_dataset

ROOT = Path(__file__).parents[2]
SMALL = """
_BASE_: {base}
MODEL:
  WEIGHTS: ""
  DEVICE: "cpu"
  HIERA: {{EMBED_DIM: 16, DEPTHS: [1, 1, 1, 1]}}
  FPN: {{OUT_CHANNELS: 16}}
  ROI_BOX_HEAD: {{CONV_DIM: 16, FC_DIM: 32}}
  ROI_MASK_HEAD: {{CONV_DIM: 16}}
  RPN: {{POST_NMS_TOPK_TEST: 20, POST_NMS_TOPK_TRAIN: 50}}
INPUT: {{MIN_SIZE_TRAIN: [64], MIN_SIZE_TEST: 64}}
DATALOADER: {{NUM_WORKERS: 0}}
SOLVER: {{IMS_PER_BATCH: 2, MAX_ITER: 2, STEPS: [], BASE_LR: 1.0e-4}}
TEST: {{EVAL_PERIOD: 0, PICTURES: 2}}
"""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "tools" / "train_net.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> ShapesPaths:
    return write_shapes_dataset(tmp_path_factory.mktemp("shapes") / "set", train=4, val=2, size=64)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(SMALL.format(base=ROOT / "configs" / "_base_" / "mask_rcnn_fpn.yaml"))
    return path


@pytest.fixture(scope="module")
def flags(config: Path, shapes: ShapesPaths) -> list[str | Path]:
    own = ["--train-json", shapes.train_json, "--train-images", shapes.train_images]
    return ["--config-file", config, *own, "--val-json", shapes.val_json, "--val-images", shapes.val_images]


@pytest.fixture(scope="module")
def trained(flags: list[str | Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The output folder of a finished training and what it printed."""
    out = tmp_path_factory.mktemp("trained") / "out"
    done = run(*flags, "OUTPUT_DIR", out)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]


def test_training_leaves_what_detectron2s_users_look_for(trained: tuple[Path, str]) -> None:
    out, printed = trained
    for name in (
        "config.yaml",
        "log.txt",
        "last_checkpoint",
        "model_final.pth",
        "inference/coco_instances_results.json",
    ):
        assert (out / name).is_file(), name
    last = metrics(out)[-1]
    assert {"bbox/AP", "segm/AP", "bbox/AP-star", "segm/AP-circle", "total_loss"} <= set(last)
    assert "Per-category bbox AP" in printed


def test_the_paths_of_the_pictures_are_printed_last(trained: tuple[Path, str]) -> None:
    out, printed = trained
    last = [line.rpartition("pictures: ")[2] for line in printed.splitlines()[-4:]]
    assert all(Path(path).is_file() for path in last)
    names = [Path(path).relative_to(out).as_posix() for path in last]
    assert names == ["predictions/0_000000.jpg", "predictions/1_000001.jpg", "predictions.png", "curves.png"]


def test_evaluating_the_checkpoint_gives_the_same_ap(
    trained: tuple[Path, str], flags: list[str | Path], tmp_path: Path
) -> None:
    out, printed = trained
    done = run("--eval-only", *flags, "MODEL.WEIGHTS", out / "model_final.pth", "OUTPUT_DIR", tmp_path / "eval")
    assert done.returncode == 0, done.stderr
    copypaste = re.compile(r"copypaste: (\d.*|nan.*)")
    assert copypaste.findall(done.stdout) == copypaste.findall(printed)
    first, second = (
        json.loads((d / "inference/coco_instances_results.json").read_text()) for d in (out, tmp_path / "eval")
    )
    assert [entry["score"] for entry in first] == pytest.approx([entry["score"] for entry in second])


def test_resume_goes_on_where_it_stopped(trained: tuple[Path, str], flags: list[str | Path]) -> None:
    out, _ = trained
    done = run("--resume", *flags, "OUTPUT_DIR", out, "SOLVER.MAX_ITER", "4")
    assert done.returncode == 0, done.stderr
    assert "Starting training from iteration 2" in done.stdout
    assert metrics(out)[-1]["iteration"] == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config-file", "missing.yaml"], "missing.yaml"),
        (["--train-json", "missing.json", "--train-images", "."], "missing.json"),
        (["MODEL.HIERA.SIZ", "base"], "did you mean MODEL.HIERA.SIZE?"),
    ],
)
def test_a_mistake_ends_in_one_line(config: Path, tmp_path: Path, arguments: list[str], says: str) -> None:
    first = [] if "--config-file" in arguments else ["--config-file", config]
    end = [] if "MODEL.HIERA.SIZ" not in arguments else ["OUTPUT_DIR", tmp_path]
    done = run(*first, *arguments, *end)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert says in line


def test_help_shows_the_flags() -> None:
    done = run("--help")
    assert done.returncode == 0
    for flag in ("--config-file", "--train-json", "--eval-only", "--resume", "--num-gpus", "--dist-url"):
        assert flag in done.stdout
