"""What strangers' files might run or reach, through the commands as users start them: nothing runs, one line.

Each trap leaves a mark where it is sprung, and each test springs it once by itself, so that it is known to be one.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detections import CONFIGS, SMALL, write_boxes
from media import write_class_folders
from PIL import Image

from hiera_det.d2.config.request import RunRequest
from hiera_det.d2.data.proposals import check_proposals
from hiera_det.d2.train.run import start
from hiera_det.data.images import read_image
from hiera_det.errors import InputError

ROOT = Path(__file__).parents[2]
QUICK = str(CONFIGS / "quick_start.yaml")


class Trap:
    """Makes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def command(tool: str, *words: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, ROOT / "tools" / tool, *words]
    return subprocess.run(
        list(map(str, line)),
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def assert_refused(done: subprocess.CompletedProcess[str], says: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert says in done.stderr.splitlines()[-1]


def test_ghostscript_is_not_started_for_an_eps_under_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "val"):
        write_class_folders(tmp_path / split, 2)
    eps = tmp_path / "train" / "red" / "0.jpg"
    Image.new("RGB", (64, 64)).save(eps, format="EPS")
    mark, gs = tmp_path / "ran", tmp_path / "bin" / "gs"
    gs.parent.mkdir()
    gs.write_text(f"#!/bin/sh\nmkdir -p {mark}\n")
    gs.chmod(0o755)
    path = f"{gs.parent}{os.pathsep}{os.environ['PATH']}"
    small = ["--embed-dim", 16, "--depths", *"1111", "--image-size", 64, "--batch-size", 6, "--device", "cpu"]
    small += ["--epochs", 1, "--mixup", 0, "--cutmix", 0, "--workers", 0]
    data = ["--train", tmp_path / "train", "--val", tmp_path / "val", "--output", tmp_path / "out"]
    assert_refused(command("train_classifier.py", *data, *small, PATH=path), "0.jpg: cannot be read as an image")
    assert not mark.exists()
    with pytest.raises(InputError):
        read_image(eps)
    monkeypatch.setenv("PATH", path)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    with pytest.raises(OSError, match=r"."):
        Image.open(eps).load()
    assert mark.exists()  # what Pillow does by itself


@pytest.mark.parametrize("place", ["weights", "checkpoint", "tag"])
def test_a_pickle_in_the_place_of_weights_or_of_a_checkpoint(place: str, tmp_path: Path) -> None:
    data, out, mark = write_boxes(tmp_path), tmp_path / "out", tmp_path / "ran"
    out.mkdir()
    trap = out / "model_0000001.pth" if place == "checkpoint" else tmp_path / "evil.pth"
    torch.save({"model": Trap(mark)}, trap)
    words = ["--config-file", QUICK, *data, *SMALL, "OUTPUT_DIR", out, "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()"]
    if place == "weights":
        done = command("train_net.py", *words, "MODEL.WEIGHTS", trap)
    else:
        (out / "last_checkpoint").write_text("model_0000001.pth" if place == "checkpoint" else "../evil.pth")
        done = command("train_net.py", "--resume", *words)
    assert_refused(done, "mkdir" if place != "tag" else "")
    assert not mark.exists()
    torch.load(trap, weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize("split", ["TRAIN", "TEST"])
def test_a_pickle_of_proposals(split: str, tmp_path: Path) -> None:
    flags = write_boxes(tmp_path)
    mark, file, sound = tmp_path / "ran", tmp_path / "proposals.pkl", tmp_path / "sound.pkl"
    own = dict(zip([flag[2:].replace("-", "_") for flag in flags[::2]], flags[1::2], strict=True))
    opts = [*SMALL, "OUTPUT_DIR", str(tmp_path / "out"), "MODEL.LOAD_PROPOSALS", "True"]
    opts += ["MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals", "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()"]
    opts += ["DATALOADER.NUM_WORKERS", "0", "TEST.EVAL_PERIOD", "0", "SOLVER.IMS_PER_BATCH", "2"]
    for other in ("TRAIN", "TEST"):
        opts += [f"DATASETS.PROPOSAL_FILES_{other}", f"('{file if other == split else sound}',)"]
    boxes = np.array([[4, 4, 40, 40], [0, 0, 60, 60]], np.float32)
    content = {"ids": list(range(1, 11)), "boxes": [boxes] * 10, "objectness_logits": [np.ones(2)] * 10, "bbox_mode": 0}
    sound.write_bytes(pickle.dumps(content))
    request = RunRequest(config_file=QUICK, opts=tuple(opts), **own)
    file.write_bytes(pickle.dumps({"ids": [1], "boxes": Trap(mark), "objectness_logits": [1.0]}))
    with pytest.raises(InputError, match=r"proposals\.pkl: is refused \(it needs .*mkdir\)"):
        start(request)
    assert not mark.exists()
    pickle.loads(file.read_bytes())
    assert mark.exists()
    file.write_bytes(sound.read_bytes())
    start(request)
    assert (tmp_path / "out" / "inference" / "coco_instances_results.json").is_file()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_proposals_of_arrays_are_taken(protocol: int, tmp_path: Path) -> None:
    boxes = [np.zeros((2, 4), np.float32), np.ones((3, 4), np.float32)]
    content = {"ids": [1, np.int64(2)], "boxes": boxes, "objectness_logits": [np.ones(2), np.ones(3)], "bbox_mode": 0}
    (tmp_path / "proposals.pkl").write_bytes(pickle.dumps(content, protocol))
    check_proposals(str(tmp_path / "proposals.pkl"))
    (tmp_path / "proposals.pkl").write_bytes(pickle.dumps(content, protocol)[:-9])
    with pytest.raises(InputError, match="is refused"):
        check_proposals(str(tmp_path / "proposals.pkl"))
