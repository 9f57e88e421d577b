"""A training that was stopped or killed and resumed equals, bit for bit, one that was not."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from media import write_class_folders
from torch import Tensor
from trainings import Ended, in_step, run, run_two

from hiera_det.weights.sources import read_weight_file

#: Random depth, augmentation, parts of batches, averaged weights: all that draws random numbers or adds up.
COMMON = ["--embed-dim", "16", "--depths", *"1111", "--image-size", "64", "--batch-size", "8", "--accumulate", "2"]
COMMON += ["--epochs", "3", "--lr", "1e-3", "--drop-path", "0.2", "--ema-decay", "0.9", "--workers", "2"]
COMMON += ["--log-period", "2", "--device", "cpu"]
DECODER = ["--decoder-embed-dim", "32", "--decoder-depth", "1", "--decoder-num-heads", "2", "--pictures", "2"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exact")
    write_class_folders(root / "train", 8)
    write_class_folders(root / "val", 2)
    return root


def words(tool: str, root: Path, out: Path, *more: str) -> list[Any]:
    data = ["--train", root / "train", "--val", root / "val"] if tool == "classify" else ["--images", root / "train"]
    return [*data, "--output", out, *COMMON, *(DECODER if tool == "pretrain" else []), *more]


@pytest.fixture(scope="module")
def straight(root: Path) -> dict[str, Path]:
    """What trainings leave that nothing has stopped: 9 steps in 3 epochs."""
    found = {}
    for tool in ("pretrain", "classify"):
        done = run(tool, words(tool, root, root / tool), root / f"{tool}.txt")
        assert done.status == 0, done.stderr
        found[tool] = root / tool
    return found


def assert_same_tensors(ours: Any, theirs: Any, where: str = "") -> None:
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_same_tensors(ours[key], theirs[key], f"{where}/{key}")
    elif isinstance(ours, list | tuple):
        for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same_tensors(a, b, f"{where}/{index}")
    elif isinstance(ours, Tensor):
        assert torch.equal(ours, theirs), where
    else:
        assert ours == theirs, where


def assert_same_runs(ours: Path, theirs: Path) -> None:
    """Weights, optimizer, averages, best value, losses and accuracies are the same."""
    names = {path.name for path in theirs.iterdir() if not path.name.startswith("events")}
    assert {path.name for path in ours.iterdir() if not path.name.startswith("events")} == names
    assert (ours / "metrics.json").read_text() == (theirs / "metrics.json").read_text()
    for name in names:
        if name.endswith(".pth") and "previous" not in name:
            assert_same_tensors(*(read_weight_file(str(folder / name)) for folder in (ours, theirs)), name)


def assert_stopped(done: Ended, status: int, at: int) -> None:
    assert done.status == status, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "stopped by" in line]
    assert line.endswith(f"at iteration {at}; --resume goes on")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("tool", "step"), [("pretrain", 5), ("classify", 5), ("pretrain", 9)])
def test_stopped_by_a_signal_to_the_whole_group_and_resumed(
    tool: str, step: int, root: Path, straight: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    stopped = run(tool, words(tool, root, out), tmp_path / "first.txt", in_step(step))
    assert_stopped(stopped, 143, step)
    assert not (out / "model_final.pth").exists()
    done = run(tool, words(tool, root, out, "--resume"), tmp_path / "second.txt")
    assert done.status == 0, done.stderr
    assert f"resuming at iteration {step} from " in done.stderr
    assert_same_runs(out, straight[tool])


@pytest.mark.parametrize("tool", ["pretrain", "classify"])
def test_killed_between_checkpoints_and_resumed(
    tool: str, root: Path, straight: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    killed = run(tool, words(tool, root, out), tmp_path / "first.txt", in_step(8, signal.SIGKILL))
    assert killed.status == -signal.SIGKILL
    done = run(tool, words(tool, root, out, "--auto-resume"), tmp_path / "second.txt")
    assert done.status == 0, done.stderr
    assert "resuming at iteration 6 from " in done.stderr
    assert_same_runs(out, straight[tool])


@pytest.mark.parametrize("tool", ["pretrain", "classify"])
def test_two_processes_stopped_then_killed_and_resumed(tool: str, root: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert [done.status for done in run_two(tool, words(tool, root, whole, "--workers", "1"), tmp_path / "a")] == [0, 0]
    first, second = run_two(tool, words(tool, root, out, "--workers", "1"), tmp_path / "b", in_step(4))
    assert_stopped(first, 143, 4)
    assert second == Ended(143, "")
    go_on = words(tool, root, out, "--workers", "1", "--resume")
    killed = run_two(tool, go_on, tmp_path / "b", in_step(8, signal.SIGKILL))
    assert -signal.SIGKILL in [done.status for done in killed]  # the other one may first miss its peer
    again = run_two(tool, go_on, tmp_path / "c")
    assert [done.status for done in again] == [0, 0], again
    assert_same_runs(out, whole)
