"""tools/train_net.py as a user runs it: in its own process, on a data set of its own."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import hiera
import pytest
import torch
from PIL import Image, ImageDraw

from hiera_det.d2.predict.predictor import Predictor
from hiera_det.weights.convert import convert, write
from hiera_det.weights.load import read_contents

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


#: Neither in a row nor from 1 on, so that an index taken for an id shows.
CATEGORIES = {7: "fig", 42: "date"}


def write_split(folder: Path, split: str, images: int) -> list[str | Path]:
    """Images of 64x64 with a triangle and a rectangle each; returns the flags that name them."""
    (folder / split).mkdir()
    records, annotations = [], []
    for index in range(images):
        image, left = Image.new("RGB", (64, 64), "gray"), 4 + 2 * index
        polygons = {7: [left, 4, left + 24, 4, left, 30], 42: [30, 32, 58, 32, 58, 56, 30, 56]}
        for category, polygon in polygons.items():
            ImageDraw.Draw(image).polygon(polygon, fill={7: "red", 42: "blue"}[category])
            x, y = min(polygon[0::2]), min(polygon[1::2])
            box = [x, y, max(polygon[0::2]) - x, max(polygon[1::2]) - y]
            entry = {"id": len(annotations) + 1, "image_id": 100 + index, "category_id": category, "iscrowd": 0}
            annotations.append(entry | {"bbox": box, "area": box[2] * box[3], "segmentation": [polygon]})
        image.save(folder / split / f"{index}.png")
        records.append({"id": 100 + index, "file_name": f"{index}.png", "width": 64, "height": 64})
    categories = [{"id": id_, "name": name} for id_, name in CATEGORIES.items()]
    path = folder / f"{split}.json"
    path.write_text(json.dumps({"info": {}, "images": records, "annotations": annotations, "categories": categories}))
    return [f"--{split}-json", path, f"--{split}-images", folder / split]


def optimizer_steps(out: Path) -> set[int]:
    """How many steps the optimizer of the final checkpoint has counted."""
    saved = torch.load(out / "model_final.pth", map_location="cpu", weights_only=True)
    return {int(state["step"]) for state in saved["trainer"]["_trainer"]["optimizer"]["state"].values()}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(SMALL.format(base=ROOT / "configs" / "_base_" / "mask_rcnn_fpn.yaml"))
    return path


@pytest.fixture(scope="module")
def flags(config: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str | Path]:
    folder = tmp_path_factory.mktemp("own")
    return ["--config-file", config, *write_split(folder, "train", 3), *write_split(folder, "val", 2)]


@pytest.fixture(scope="module")
def trained(flags: list[str | Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The output folder of a finished training and its log."""
    out = tmp_path_factory.mktemp("trained") / "out"
    done = run(*flags, "OUTPUT_DIR", out)
    assert done.returncode == 0, done.stderr
    return out, (out / "log.txt").read_text()


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]


def predictions(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "inference" / "coco_instances_results.json").read_text())


def test_training_starts_from_the_weights_whatever_package_wrote_them(flags: list[str | Path], tmp_path: Path) -> None:
    theirs = hiera.Hiera(embed_dim=16, num_heads=1, stages=(1, 1, 1, 1))
    torch.save({"model_state": theirs.state_dict()}, tmp_path / "official.pth")
    write(convert(read_contents(str(tmp_path / "official.pth")), "hf"), tmp_path / "hf.safetensors")
    losses = {}
    for weights in ("", "official.pth", "hf.safetensors"):
        out = tmp_path / f"out_{weights}"
        path = str(tmp_path / weights) if weights else ""
        training_only = flags[:6]
        done = run(
            *training_only,
            "SEED",
            "7",
            "SOLVER.MAX_ITER",
            "1",
            "TEST.PICTURES",
            "0",
            "MODEL.WEIGHTS",
            path,
            "OUTPUT_DIR",
            out,
        )
        assert done.returncode == 0, done.stderr
        losses[weights] = metrics(out)[0]["total_loss"]
        assert ("57 tensors loaded; 0 resampled; 4 dropped (" in (out / "log.txt").read_text()) == bool(weights)
    assert losses["official.pth"] == losses["hf.safetensors"]
    assert losses["official.pth"] != losses[""]


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
    # detectron2 writes the last step's losses, then the evaluation that follows it on a line of its own.
    losses, evaluation = metrics(out)
    assert losses["iteration"] == 1
    assert math.isfinite(losses["total_loss"])
    assert {"bbox/AP", "segm/AP", "bbox/AP-fig", "segm/AP-date"} <= set(evaluation)
    assert "Per-category bbox AP" in printed


def test_predictions_carry_the_ids_of_the_users_json(trained: tuple[Path, str]) -> None:
    found = predictions(trained[0])
    assert found
    assert {entry["category_id"] for entry in found} <= set(CATEGORIES)
    assert {entry["image_id"] for entry in found} <= {100, 101}


def test_the_output_folder_is_all_that_prediction_needs(trained: tuple[Path, str], flags: list[str | Path]) -> None:
    predictor = Predictor.from_folder(str(trained[0]), threshold=0.0)
    assert predictor.categories == [{"id": id_, "name": name} for id_, name in CATEGORIES.items()]
    images = sorted(Path(flags[-1]).iterdir())
    found = [predictor.coco_results(found, 0) for found in predictor.predict_files([str(path) for path in images])]
    evaluated = [[entry for entry in predictions(trained[0]) if entry["image_id"] == 100 + i] for i in range(2)]
    for ours, theirs in zip(found, evaluated, strict=True):
        scores = [sorted(entry["score"] for entry in entries if entry["score"] > 0.05) for entries in (ours, theirs)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)
        assert scores[0]


def test_the_paths_of_the_pictures_are_in_the_log(trained: tuple[Path, str]) -> None:
    out, printed = trained
    last = [line.rpartition("pictures: ")[2] for line in printed.splitlines() if "pictures: " in line]
    assert all(Path(path).is_file() for path in last)
    names = [Path(path).relative_to(out).as_posix() for path in last]
    assert names == ["predictions/0_0.jpg", "predictions/1_1.jpg", "predictions.png", "curves.png"]


def test_evaluating_the_checkpoint_gives_the_same_ap_and_leaves_the_config_of_the_training(
    trained: tuple[Path, str], flags: list[str | Path], tmp_path: Path
) -> None:
    out, printed = trained
    (tmp_path / "eval").mkdir()
    kept = shutil.copy(out / "config.yaml", tmp_path / "eval")
    other = ("TEST.PICTURES", "1", "OUTPUT_DIR", tmp_path / "eval")
    done = run("--eval-only", *flags, "MODEL.WEIGHTS", out / "model_final.pth", *other)
    assert done.returncode == 0, done.stderr
    copypaste = re.compile(r"copypaste: (\d.*|nan.*)")
    first, second = copypaste.findall(printed), copypaste.findall((tmp_path / "eval" / "log.txt").read_text())
    assert len(first) == 2  # boxes and masks
    assert first == second
    assert Path(kept).read_bytes() == (out / "config.yaml").read_bytes()
    scores = [[entry["score"] for entry in predictions(folder)] for folder in (out, tmp_path / "eval")]
    assert scores[0]
    assert scores[0] == pytest.approx(scores[1])


def test_resume_goes_on_where_it_stopped(trained: tuple[Path, str], flags: list[str | Path], tmp_path: Path) -> None:
    out, _ = trained
    # Another test reads the folder of the first training: go on in a copy.
    shutil.copytree(out, tmp_path / "out")
    done = run(
        "--resume",
        *flags,
        "OUTPUT_DIR",
        tmp_path / "out",
        "SOLVER.MAX_ITER",
        "4",
        "TEST.PICTURES",
        "0",
        "TEST.REPORT",
        "False",
    )
    assert done.returncode == 0, done.stderr
    assert "Starting training from iteration 2" in (tmp_path / "out" / "log.txt").read_text()
    # What was written after the end, the last evaluation, gives way to what comes there now.
    assert [entry["iteration"] for entry in metrics(tmp_path / "out")] == [1, 3, 4]
    assert optimizer_steps(out) == {2}
    assert optimizer_steps(tmp_path / "out") == {4}  # 2 where the optimizer's state was lost


def test_resuming_with_other_settings_ends_in_one_line(
    trained: tuple[Path, str], flags: list[str | Path], tmp_path: Path
) -> None:
    shutil.copytree(trained[0], tmp_path / "out")
    done = run("--resume", *flags, "OUTPUT_DIR", tmp_path / "out", "SOLVER.OPTIMIZER", "SGD")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "error: --resume: the checkpoint is of another SOLVER.OPTIMIZER" in done.stderr


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
    (line,) = [line for line in done.stderr.splitlines() if "error:" in line]
    assert line.startswith("error: ")
    assert says in line


def test_help_shows_the_flags() -> None:
    done = run("--help")
    assert done.returncode == 0
    for flag in ("--config-file", "--train-json", "--eval-only", "--resume", "--num-gpus", "--dist-url"):
        assert flag in done.stdout
