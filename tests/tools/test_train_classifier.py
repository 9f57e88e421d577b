"""tools/train_classifier.py as a user runs it: folders of classes in, a classifier that knows them out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from media import write_class_folders, write_video
from PIL import Image

from hiera_det.modeling.classifier import HieraForClassification
from hiera_det.weights.model_file import write_model_file
from hiera_det.weights.sources import read_weight_file
from hiera_det.zoo import hiera_mae

TOOL = Path(__file__).parents[2] / "tools" / "train_classifier.py"
CLASSIFY = TOOL.with_name("classify.py")
FIELDS: dict[str, Any] = {"embed_dim": 16, "num_heads": 1, "depths": [1, 1, 1, 1], "pretrain_size": 64, "frames": 0}
DIMS = ["--embed-dim", "16", "--depths", *"1111"]
RUN = ["--image-size", "64", "--batch-size", "4", "--epochs", "2", "--lr", "1e-3", "--workers", "0"]
RUN += ["--log-period", "2", "--device", "cpu"]
#: The same gradients however the batch is shared out.
PLAIN = ["--mixup", "0", "--cutmix", "0", "--drop-path", "0", "--auto-augment", "", "--random-erase", "0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``train`` and ``val``, and weights of a pretraining."""
    root = tmp_path_factory.mktemp("data")
    write_class_folders(root / "train", 4)
    write_class_folders(root / "val", 3)
    torch.manual_seed(0)
    model = hiera_mae("tiny", **FIELDS, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=1)
    write_model_file(str(root / "mae.pth"), model, FIELDS)
    return root


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training from those weights with the recipe's augmentation, in its own process."""
    out = tmp_path_factory.mktemp("trained") / "out"
    words = [sys.executable, str(TOOL), *map(str, folders(data)), "--output", str(out), *RUN]
    words += ["--weights", str(data / "mae.pth"), "--loggers", "csv"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].endswith(f"hiera-det classify FOLDER --weights {out / 'model_best.pth'}")
    assert "4 newly initialised (norm 2, head 2)" in done.stderr
    return out


def folders(data: Path) -> list[str | Path]:
    return ["--train", data / "train", "--val", data / "val"]


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]


def test_what_a_training_leaves(trained: Path) -> None:
    assert {path.name for path in trained.iterdir() if not path.name.startswith("events")} == {
        *(
            "checkpoint.pth",
            "checkpoint.previous.pth",
            "curves.png",
            "last_checkpoint",
            "log.txt",
            "metrics.csv",
            "metrics.json",
            "run.json",
        ),
        *("model_best.pth", "model_final.pth"),
    }
    judged = [line for line in metrics(trained) if "top1" in line]
    assert [line["iteration"] for line in judged] == [3, 6]
    assert all(0 <= line["top1"] <= line["top5"] == 1 for line in judged)
    saved = read_weight_file(str(trained / "model_final.pth"))
    assert saved["classes"] == ["blue", "green", "red"]
    assert saved["config"] == FIELDS  # taken from the weights, which no flag repeats
    assert Image.open(trained / "curves.png").width > 1000


def test_a_new_process_finds_the_accuracy_of_the_last_epoch(trained: Path, data: Path, tmp_path: Path) -> None:
    words = [sys.executable, str(CLASSIFY), "--weights", str(trained), "--evaluate", str(data / "val")]
    words += ["--json", str(tmp_path / "a.json"), "--workers", "0", "--device", "cpu"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, last = json.loads((tmp_path / "a.json").read_text()), metrics(trained)[-1]
    assert found["images"] == 9
    assert (found["top1"], found["top5"]) == (last["top1"], last["top5"])
    assert found["loss"] == pytest.approx(last["val_loss"], rel=1e-6)


def test_it_learns_what_can_be_learned(data: Path, tmp_path: Path, run_here: Any) -> None:
    words = (TOOL, *folders(data), "--output", tmp_path / "out", *RUN, *PLAIN, *DIMS, "--epochs", "8", "--lr", "3e-3")
    done = run_here(*words)
    assert done.returncode == 0, done.stderr
    assert "weights     random\n" in done.stderr
    assert "rate 0.003; warm-up of 1 iterations; cosine; gradients not clipped\n" in done.stderr  # no layer decay
    assert metrics(tmp_path / "out")[-1]["top1"] == 1


def brightening(number: int) -> npt.NDArray[np.uint8]:
    return np.full((40, 48, 3), 20 + 12 * number, dtype=np.uint8)


def darkening(number: int) -> npt.NDArray[np.uint8]:
    return brightening(15 - number)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos that only the order of their frames tells apart."""
    root = tmp_path_factory.mktemp("videos")
    for split, count in (("train", 4), ("val", 2)):
        for name, frame in (("up", brightening), ("down", darkening)):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                write_video(root / split / name / f"{number}.mp4", 16, frame)
    return root


def test_clips_are_learned_evaluated_and_known_again(videos: Path, tmp_path: Path, run_here: Any) -> None:
    words = (*RUN, *PLAIN, *DIMS, "--image-size", "32", "--frames", "4", "--stride", "2", "--views", "1", "2")
    done = run_here(TOOL, *folders(videos), "--output", tmp_path / "out", *words, "--epochs", "12", "--lr", "3e-3")
    assert done.returncode == 0, done.stderr
    last = metrics(tmp_path / "out")[-1]
    assert last["top1"] == 1
    saved = read_weight_file(str(tmp_path / "out" / "model_final.pth"))
    assert (saved["classes"], saved["config"]["frames"]) == (["down", "up"], 4)
    words = ("--evaluate", videos / "val", "--weights", tmp_path / "out", "--stride", "2", "--views", "1", "2")
    again = run_here(CLASSIFY, *words, "--workers", "0", "--device", "cpu", "--json", tmp_path / "a.json")
    assert again.returncode == 0, again.stderr
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["loss"] == pytest.approx(last["val_loss"], rel=1e-5)


def test_clips_of_one_video_share_a_step_and_are_augmented_and_mixed(
    videos: Path, tmp_path: Path, run_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    forward = HieraForClassification.forward

    def recorded(self: HieraForClassification, clips: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(clips.shape))
        return forward(self, clips)

    monkeypatch.setattr(HieraForClassification, "forward", recorded)
    words = (*RUN, *DIMS, "--image-size", "32", "--frames", "4", "--repeats", "3", "--epochs", "1", "--views", "3", "2")
    done = run_here(TOOL, *folders(videos), "--output", tmp_path / "out", *words)
    assert done.returncode == 0, done.stderr
    assert seen[0] == (12, 3, 4, 32, 32)  # three clips of each of four videos
    assert seen[-6:] == [(4, 3, 4, 32, 32)] * 6  # a view at a time


def test_two_processes_train_as_one_does(data: Path, tmp_path: Path, run_here: Any) -> None:
    words = [*folders(data), *RUN, *PLAIN, "--weights", data / "mae.pth"]
    one = run_here(TOOL, *words, "--output", tmp_path / "one")
    assert one.returncode == 0, one.stderr
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = subprocess.run(
        [*torchrun, *map(str, (TOOL, *words, "--output", tmp_path / "two"))],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert two.returncode == 0, two.stderr
    assert (tmp_path / "two" / "log.txt").read_text().count("iteration 6/6") == 1  # one of them logs
    for ours, theirs in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_a_classifier_of_the_same_classes_keeps_its_last_layer_and_others_get_new_rows(
    data: Path, trained: Path, tmp_path: Path, run_here: Any
) -> None:
    words = (TOOL, *RUN, *PLAIN, "--epochs", "1", "--lr", "0", "--weights", trained, "--val")
    same = run_here(*words, data / "val", "--train", data / "train", "--output", tmp_path / "same")
    assert same.returncode == 0, same.stderr
    assert metrics(tmp_path / "same")[-1]["top1"] == metrics(trained)[-1]["top1"]
    assert "0 newly initialised" in same.stderr
    write_class_folders(tmp_path / "other", 4, {"red": (200, 40, 40), "teal": (0, 128, 128), "sky": (130, 200, 250)})
    other = run_here(*words, tmp_path / "other", "--train", tmp_path / "other", "--output", tmp_path / "out")
    assert other.returncode == 0, other.stderr
    told = "classes go by name: 1 of 3 are the checkpoint's; new and untrained: ['sky', 'teal']; left out: ['bl"
    assert told in other.stderr
    old, new = (
        read_weight_file(str(folder / "model_final.pth"))["model_state"] for folder in (trained, tmp_path / "out")
    )
    for name in ("head.projection.weight", "head.projection.bias"):
        assert torch.equal(new[name][0], old[name][2])  # red
        assert not torch.equal(new[name][1], old[name][1])
    assert "12 of the images to evaluate are trained on" in other.stderr
    assert "are trained on" not in same.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--val", "OTHER"], "1 of its 1 classes are none of the model's 3 (pink)"),
        (["--val", "EMPTY"], "there are no class folders"),
        (["--train", "none"], "none: no such folder; give one that holds a folder of images per class"),
        (["--train", "BROKEN", "--val", "BROKEN"], ".jpg: cannot be read as an image"),
        (["--train", "BROKEN", "--val", "BROKEN", "--workers", "1"], ".jpg: cannot be read as an image"),
        (["--weights", "none.pth"], "none.pth"),
        (["--weights", "DATA/mae.pth", "--embed-dim", "32"], "embed dim 16; the model is"),
        (["--resume"], "--resume: there is no checkpoint in "),
        (["--batch-size", "3"], "need an even number of images at a time, not 3"),
        (["--auto-augment", "best"], "--auto-augment best: timm has none; one is rand-m9-mstd0.5-inc1"),
        (["--layer-decay", "2"], "--layer-decay 2.0: must be above 0 and at most 1"),
        (["--random-erase", "2"], "--random-erase 2.0: must be from 0 to 1"),
        (["--dropout", "1"], "--dropout 1.0: must be at least 0 and below 1"),
        (["--mixup", "-1"], "must not be negative"),
        (["--image-size", "60"], "--image-size 60: must be a positive multiple of 32"),
    ],
)
def test_mistakes_end_in_one_line(words: list[str], says: str, data: Path, tmp_path: Path, run_here: Any) -> None:
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "BROKEN" / "red").mkdir(parents=True)
    for number in range(4):
        (tmp_path / "BROKEN" / "red" / f"{number}.jpg").write_bytes(b"no image")
    write_class_folders(tmp_path / "OTHER", 1, {"pink": (250, 200, 200)})
    filled = []
    for word in words:
        first, slash, rest = word.partition("/")
        places = {"DATA": data} | {name: tmp_path / name for name in ("EMPTY", "BROKEN", "OTHER")}
        filled.append(f"{places.get(first, first)}{slash}{rest}")
    dims = [] if "--weights" in words else DIMS
    done = run_here(TOOL, *folders(data), "--output", tmp_path / "out", *RUN, *dims, *filled)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert says in line
    assert "Traceback" not in done.stderr
