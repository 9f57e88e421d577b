"""Checkpoints of a folder (hiera_det/engine/checkpoint.py)."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hiera_det.engine.checkpoint import (
    CHECKPOINT,
    PREVIOUS,
    Checkpoints,
    FolderLock,
    Patience,
    check_iteration,
    check_unchanged,
    goes_on,
)
from hiera_det.errors import InputError
from hiera_det.files import WriteError
from hiera_det.weights.sources import read_weight_file


def content(iteration: int) -> dict[str, Any]:
    return {"iteration": iteration, "model_state": {"w": torch.full((3,), float(iteration))}}


def save(folder: Path, *iterations: int, name: str = CHECKPOINT, keep: int = 0) -> Checkpoints:
    checkpoints = Checkpoints(str(folder), keep)
    for iteration in iterations:
        checkpoints.save(name.format(iteration), content(iteration))
    return checkpoints


def test_the_last_and_the_one_before_are_kept_and_the_tag_names_the_last(tmp_path: Path) -> None:
    checkpoints = save(tmp_path, 1, 2, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [PREVIOUS, CHECKPOINT, "last_checkpoint"]
    assert (tmp_path / "last_checkpoint").read_text() == CHECKPOINT
    path, state = checkpoints.newest_good()
    assert (path, state["iteration"]) == (str(tmp_path / CHECKPOINT), 3)
    assert read_weight_file(tmp_path / PREVIOUS)["iteration"] == 2


def damage(path: Path, kind: str) -> None:
    path.write_bytes({"truncated": path.read_bytes()[:-300], "empty": b"", "page": b"<html>"}[kind])


@pytest.mark.parametrize("kind", ["truncated", "empty", "page"])
def test_a_damaged_checkpoint_is_passed_over_and_the_loss_is_said(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = save(tmp_path, 1, 2, 3)
    (tmp_path / "metrics.json").write_text(json.dumps({"iteration": 7, "loss": 1.0}) + "\n")
    damage(tmp_path / CHECKPOINT, kind)
    with caplog.at_level(logging.WARNING):
        path, state = checkpoints.newest_good()
    assert (path, state["iteration"]) == (str(tmp_path / PREVIOUS), 2)
    assert f"going on from {path} instead: 5 iterations are lost" in caplog.messages


def test_where_none_can_be_used_the_line_is_that_of_the_newest(tmp_path: Path) -> None:
    checkpoints = save(tmp_path, 1, 2)
    damage(tmp_path / CHECKPOINT, "empty")
    damage(tmp_path / PREVIOUS, "truncated")
    with pytest.raises(InputError, match=r"checkpoint\.pth is empty"):
        checkpoints.newest_good()
    with pytest.raises(InputError, match="no checkpoint in "):
        Checkpoints(str(tmp_path / "none")).newest_good()


TAGS = ["../other/checkpoint.pth", "/etc/passwd", "", "\n", ".", "..", ".hidden.pth", "none.pth", "a\\b.pth"]
TAGS += ["checkpoint.pth\x00", "x" * 5000, "sub/checkpoint.pth", "sub"]


@pytest.mark.parametrize("tag", [*TAGS, b"\xff\xfe\x00"], ids=range(len(TAGS) + 1))
def test_a_tag_that_names_no_file_of_the_folder_is_passed_over(tag: str | bytes, tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    (own / "sub").mkdir(parents=True)
    other.mkdir()
    save(other, 9)
    (own / ".hidden.pth").write_bytes(b"")
    checkpoints = save(own, 1, 2)
    (own / "last_checkpoint").write_bytes(tag if isinstance(tag, bytes) else tag.encode())
    path, state = checkpoints.newest_good()
    assert (path, state["iteration"]) == (str(own / CHECKPOINT), 2)


def test_a_tag_with_a_line_end_is_one_of_detectron2s(tmp_path: Path) -> None:
    checkpoints = save(tmp_path, 10, 20, name="model_{:07d}.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000010.pth\n")
    assert checkpoints.newest_good()[1]["iteration"] == 10


def test_the_newest_so_many_are_kept_with_their_averages(tmp_path: Path) -> None:
    for iteration in (1, 2, 3):
        (tmp_path / f"model_{iteration:07d}_ema.pth").write_bytes(b"")
    save(tmp_path, 1, 2, 3, 4, name="model_{:07d}.pth", keep=2)
    kept = {"model_0000003.pth", "model_0000004.pth", "model_0000003_ema.pth", "last_checkpoint"}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_of_those_between_periods_the_newest_two_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), period=4)
    for steps in (2, 4, 5, 6, 7):
        (tmp_path / f"model_{steps - 1:07d}_ema.pth").touch()
        checkpoints.save(f"model_{steps - 1:07d}.pth", content(steps))
    kept = {path.name for path in tmp_path.glob("*.pth")}
    assert kept == {f"model_000000{steps - 1}{ema}.pth" for steps in (4, 6, 7) for ema in ("", "_ema")}


def test_a_saving_that_fails_leaves_the_folder_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = save(tmp_path, 1)

    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(InputError, match="the disk is full"):
        checkpoints.save(CHECKPOINT, content(2))
    monkeypatch.undo()
    assert checkpoints.newest_good()[1]["iteration"] == 1
    assert not list(tmp_path.glob(".*"))


def test_a_saving_may_fail_twice_and_not_three_times_in_a_row() -> None:
    patience = Patience()

    def fail() -> None:
        raise WriteError("x.pth", 28, "the disk is full")

    assert [patience.save(fail), patience.save(fail), patience.save(lambda: None)] == [False, False, True]
    assert [patience.save(fail), patience.save(fail)] == [False, False]
    with pytest.raises(InputError, match=r"the disk is full.*; 3 checkpoints in a row could not be saved"):
        patience.save(fail)
    with pytest.raises(InputError, match="could not be saved"):
        Patience().save(fail, last=True)


HOLD = """
import sys
from hiera_det.engine.checkpoint import FolderLock
with FolderLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_one_runs_and_is_free_again_when_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        says = rf"--output {tmp_path}: a training runs there \(process {holder.pid} on .+\); give another folder"
        with pytest.raises(InputError, match=says), FolderLock(str(tmp_path)):
            raise AssertionError("both have it")
        holder.kill()
    with FolderLock(str(tmp_path)):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
    assert not list(tmp_path.iterdir())


def test_a_used_folder_is_gone_on_from_only_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path)
    assert not goes_on(out, False, False)
    assert not goes_on(out, False, True)
    with pytest.raises(InputError, match="--resume: there is no checkpoint in "):
        goes_on(out, True, False)
    save(tmp_path, 1)
    assert goes_on(out, False, True)
    assert goes_on(out, True, False)
    with pytest.raises(InputError, match=f"-o {out}: a training is there already; give --resume, or another folder"):
        goes_on(out, False, False, "-o")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")  # torchrun, after it has lost a process
    assert goes_on(out, False, False)


@pytest.mark.parametrize("iteration", [-5, 10**9, "x", 1.5, None, True])
def test_a_count_of_steps_that_no_training_has_is_damage(iteration: Any) -> None:
    with pytest.raises(InputError, match=r"a\.pth: is at iteration .+, which no training is at"):
        check_iteration("a.pth", iteration)


def test_changed_settings_are_refused_with_both_values_and_the_word_that_lets_them_pass() -> None:
    saved = {"--lr": 0.1, "--batch-size": 4, "the classes": ["a"]}
    own = {"lr": 0.1, "batch_size": 4, "the classes": ["a"], "the files": "0af3"}
    assert check_unchanged("a.pth", saved, own) == []  # by whatever front door; the files stand in no older checkpoint
    says = "a.pth was made with batch_size 4, now it is 8; resume with the same, or give --allow-changed batch-size"
    with pytest.raises(InputError, match=says):
        check_unchanged("a.pth", saved, own | {"batch_size": 8})
    with pytest.raises(InputError, match="give --allow-changed classes"):
        check_unchanged("a.pth", saved, own | {"the classes": ["b"]}, ["lr"])
    changed = own | {"batch_size": 8, "the classes": ["b"]}
    assert check_unchanged("a.pth", saved, changed, ["--batch-size", "classes"]) == ["batch_size", "the classes"]


def test_a_setting_that_follows_from_another_is_not_asked_about() -> None:
    saved, own = {"--epochs": 10, "--warmup": 1.0}, {"--epochs": 20, "--warmup": 2.0}
    derived = {"--warmup": ["--epochs"]}
    with pytest.raises(InputError, match="give --allow-changed epochs"):
        check_unchanged("a.pth", saved, own, [], derived)
    assert check_unchanged("a.pth", saved, own, ["epochs"], derived) == ["--epochs", "--warmup"]
    with pytest.raises(InputError, match="give --allow-changed warmup"):
        check_unchanged("a.pth", saved, own | {"--epochs": 10}, ["epochs"], derived)


def test_a_name_that_is_no_setting_is_refused() -> None:
    with pytest.raises(InputError, match=r"--allow-changed rate: no setting .+; these are: lr, classes"):
        check_unchanged("a.pth", {}, {"--lr": 1, "the classes": []}, ["rate"])
