"""What ends or disturbs a training: one line, the right exit status, nothing half-written, and it goes on after."""

from __future__ import annotations

import os
import resource
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from media import write_class_folders
from trainings import before, in_step, run, run_two, start

from hiera_det.engine.events import read_metrics
from hiera_det.weights.sources import read_weight_file

WORDS = ["--embed-dim", "16", "--depths", *"1111", "--image-size", "64", "--batch-size", "4", "--epochs", "3"]
WORDS += ["--lr", "1e-3", "--log-period", "1", "--device", "cpu", "--drop-path", "0"]
PLAIN = ["--mixup", "0", "--cutmix", "0", "--auto-augment", "", "--random-erase", "0"]
READER = ("hiera_det.tasks.transforms", "ImageReader.__call__")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faults")
    write_class_folders(root / "train", 4)
    write_class_folders(root / "val", 2)
    return root


def words(root: Path, out: Path, *more: Any) -> list[Any]:
    return ["--train", root / "train", "--val", root / "val", "--output", out, *WORDS, *PLAIN, "--workers", "1", *more]


def names(out: Path) -> set[str]:
    return {path.name for path in out.iterdir() if not path.name.startswith("events")}


def iterations(out: Path) -> list[int]:
    return [line["iteration"] for line in read_metrics(out / "metrics.json") if "loss" in line]


#: Where a signal comes: the patch that sends it, and at which step the training stops. In the data wait it is the
#: worker that sends it, while it reads an image of step 5.
MOMENTS = {
    "step": (partial(in_step, 5), 5),
    "data wait": (partial(before, *READER, 18), 4),
    "evaluation": (partial(before, "hiera_det.tasks.classify.loss", "_counts", 2), 6),
    "saving": (partial(before, "hiera_det.engine.checkpoint", "Checkpoints.save", 1), 3),
}


@pytest.mark.parametrize(("moment", "number", "status"), [
    *((moment, signal.SIGTERM, 143) for moment in MOMENTS),
    *((moment, signal.SIGINT, 130) for moment in MOMENTS),
    ("step", signal.SIGUSR1, 143),
    ("step", signal.SIGHUP, 143),
])  # fmt: skip
def test_a_signal_to_the_group_saves_and_ends_in_one_line(
    moment: str, number: int, status: int, root: Path, tmp_path: Path
) -> None:
    patch, at = MOMENTS[moment]
    done = run("classify", words(root, tmp_path / "out"), tmp_path / "stderr", patch(number=number))
    assert done.status == status, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("stopped by signal") == 1
    state = read_weight_file(str(tmp_path / "out" / "checkpoint.pth"))
    assert at - 1 <= state["iteration"] <= at  # a step may be under way while the worker reads
    assert not {name for name in names(tmp_path / "out") if name.endswith((".partial", ".lock"))}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("place", ["build_adamw", "find"])
def test_a_signal_in_the_set_up_ends_in_one_line_and_leaves_no_checkpoint(
    place: str, number: int, status: int, root: Path, tmp_path: Path
) -> None:
    where = {"build_adamw": ("hiera_det.tasks.training", "build_adamw")}
    where["find"] = ("hiera_det.tasks.classify.train", "find_class_folders")
    done = run("classify", words(root, tmp_path / "out"), tmp_path / "stderr", before(*where[place], number=number))
    assert done.status == status, done.stderr
    assert done.stderr.splitlines()[-1].endswith(f"stopped by {signal.Signals(number).name} before the first step")
    assert names(tmp_path / "out") == {"log.txt"}


def _sleep_in_step() -> None:
    from hiera_det.engine.step import Step

    Step._backward = lambda self, *part: time.sleep(60)  # type: ignore


def test_a_second_signal_ends_at_once(root: Path, tmp_path: Path) -> None:
    running = start("classify", words(root, tmp_path / "out"), tmp_path / "stderr", _sleep_in_step)
    while "warm-up" not in (tmp_path / "stderr").read_text() if (tmp_path / "stderr").exists() else True:
        time.sleep(0.05)
    time.sleep(1)  # into the step
    began = time.monotonic()
    for _ in range(2):
        os.kill(running.process.pid or 0, signal.SIGTERM)
        time.sleep(1.2)
    done = running.wait()
    assert done.status == 143, done.stderr
    assert time.monotonic() - began < 20
    assert "Traceback" not in done.stderr


def _slow_steps() -> None:
    from hiera_det.engine.step import Step

    original = Step.__call__

    def call(self: Any, *arguments: Any) -> Any:
        time.sleep(1)
        return original(self, *arguments)

    Step.__call__ = call  # type: ignore[method-assign]


def test_a_second_run_in_the_same_folder_is_refused_and_the_first_goes_on(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = start("classify", words(root, out, "--epochs", "2"), tmp_path / "first", _slow_steps)
    while not (out / ".lock").is_file() or not (out / ".lock").read_text():
        time.sleep(0.05)
    second = run("classify", words(root, out, "--auto-resume"), tmp_path / "second")
    assert second.status == 2
    (line,) = second.stderr.splitlines()
    assert line.startswith(f"error: --output {out}: a training runs there (process {first.process.pid} on ")
    done = first.wait()
    assert done.status == 0, done.stderr
    assert iterations(out) == [1, 2, 3, 4, 5, 6]
    assert ".lock" not in names(out)


def _small_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_checkpoints_that_cannot_be_written_end_the_training_after_the_third(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(
        "classify", words(root, out, "--best", "", "--workers", "0"), tmp_path / "stderr", partial(_small_files, 30000)
    )
    assert done.status == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert sum("training goes on and tries again" in line for line in lines) == 2
    assert "3 checkpoints in a row could not be saved" in lines[-1]
    assert "larger than a file may be" in lines[-1]
    assert iterations(out) == list(range(1, 10))
    assert not {name for name in names(out) if name.endswith((".pth", ".partial"))}


def _nan_gradient(*at: int) -> None:
    from hiera_det.engine.step import Step

    original, step = Step._gradient_norm, 0

    def norm(self: Any) -> Any:
        nonlocal step
        step += 1
        if step in at:
            next(self.model.parameters()).grad.fill_(float("nan"))
        return original(self)

    Step._gradient_norm = norm  # type: ignore[method-assign]


def test_a_gradient_that_is_not_finite_takes_no_step_and_leaves_no_checkpoint(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("classify", words(root, out), tmp_path / "stderr", partial(_nan_gradient, 5))
    assert done.status == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "not finite" in line]
    assert line.startswith("error: iteration 5: not finite: loss ")
    assert "gradient norm nan, learning rate " in line
    assert ".jpg" in line
    state = read_weight_file(str(out / "checkpoint.pth"))
    assert state["iteration"] == 3
    assert all(torch.isfinite(tensor).all() for tensor in state["model_state"].values())


@pytest.mark.parametrize(("allowed", "status"), [(1, 2), (2, 0)])
def test_so_many_in_a_row_may_be_left_out(allowed: int, status: int, root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    patch = partial(_nan_gradient, 2, 5, 6)
    done = run("classify", words(root, out, "--skip-nonfinite", allowed), tmp_path / "stderr", patch)
    assert done.status == status, done.stderr
    assert done.stderr.count("the step is left out (1 in a row)") == 2
    assert done.stderr.count("the step is left out (2 in a row)") == allowed - 1


def test_a_killed_loader_worker_is_named(root: Path, tmp_path: Path) -> None:
    patch = partial(_kill_reader, 10)
    done = run("classify", words(root, tmp_path / "out"), tmp_path / "stderr", patch)
    assert done.status == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "a process that reads images is gone" in done.stderr.splitlines()[-1]


def _kill_reader(call: int) -> None:
    from hiera_det.tasks.transforms import ImageReader

    original, calls = ImageReader.__call__, 0

    def read(self: Any, path: str) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, path)

    ImageReader.__call__ = read  # type: ignore[method-assign]


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed = run("classify", words(root, out), tmp_path / "a", in_step(8, signal.SIGKILL))
    assert killed.status == -signal.SIGKILL
    path = out / "checkpoint.pth"
    path.write_bytes(path.read_bytes()[:-5000])
    done = run("classify", words(root, out, "--resume"), tmp_path / "b")
    assert done.status == 0, done.stderr
    assert f"going on from {out / 'checkpoint.previous.pth'} instead: 4 iterations are lost" in done.stderr
    assert iterations(out) == list(range(1, 10))


@pytest.mark.parametrize(("more", "says"), [
    (["--batch-size", "2"], "was made with --batch-size 4, now it is 2; resume with the same, or give --allow-changed "
     "batch-size"),
    (["--lr", "2e-3"], "was made with --lr 0.001, now it is 0.002"),
    (["--epochs", "4"], "was made with --epochs 3, now it is 4"),
    (["--weight-decay", "0"], "was made with --weight-decay 0.05, now it is 0"),
    (["--ema-decay", "0.9"], "was made with --ema-decay 0.0, now it is 0.9"),
    (["--train", "OTHER"], "was made with the number of files 12, now it is 9"),
    (["--train", "RENAMED"], "was made with the files "),
    (["--train", "CLASSES", "--val", "CLASSES"], "was made with the classes ['blue', 'green', 'red'], now it is ["),
    (["--train", "CLASSES", "--val", "CLASSES", "--allow-changed", "classes"], "give it as --weights, which"),
    (["--depths", *"1121"], "was made with --depths [1, 1, 1, 1], now it is [1, 1, 2, 1]"),
    (["--allow-changed", "rate"], "--allow-changed rate: no setting that a checkpoint is compared in; these are: "),
])  # fmt: skip
def test_changed_settings_and_data_are_refused(
    more: list[str], says: str, root: Path, stopped: Path, tmp_path: Path
) -> None:
    write_class_folders(tmp_path / "OTHER", 3)
    write_class_folders(tmp_path / "RENAMED", 4)
    os.rename(tmp_path / "RENAMED" / "red" / "0.jpg", tmp_path / "RENAMED" / "red" / "00.jpg")
    write_class_folders(tmp_path / "CLASSES", 4, {"blue": (0, 0, 200), "green": (0, 200, 0), "pink": (200, 0, 0)})
    filled = [str(tmp_path / word) if word.isupper() else word for word in more]
    done = run("classify", words(root, stopped, "--resume", *filled), tmp_path / "stderr")
    assert done.status == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert says in line


@pytest.fixture(scope="module")
def stopped(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that was stopped at step 5 of 9."""
    folder = tmp_path_factory.mktemp("stopped")
    done = run("classify", words(root, folder / "out"), folder / "stderr", in_step(5))
    assert done.status == 143, done.stderr
    return folder / "out"


def test_what_is_allowed_to_change_acts_and_is_said(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("classify", words(root, out), tmp_path / "a", in_step(5)).status == 143
    more = ("--resume", "--weight-decay", "0.5", "--lr", "2e-3", "--allow-changed", "weight-decay", "lr")
    done = run("classify", words(root, out, *more), tmp_path / "b")
    assert done.status == 0, done.stderr
    assert "--weight-decay was 0.05 and is now 0.5: from here on it is another training" in done.stderr
    groups = read_weight_file(str(out / "checkpoint.pth"))["optimizer"]["param_groups"]
    assert {group["weight_decay"] for group in groups} == {0.0, 0.5}


@pytest.mark.parametrize(("tool", "more", "follower"), [
    ("classify", ["--epochs", "4"], "--warmup-epochs was"), ("classify", ["--batch-size", "6"], "--lr was"),
])  # fmt: skip
def test_what_follows_from_an_allowed_change_is_said_and_needs_no_word_of_its_own(
    tool: str, more: list[str], follower: str, root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    own = [word for word in words(root, out) if word not in ("--lr", "1e-3", "--warmup-epochs")]
    assert run(tool, own, tmp_path / "a", in_step(5)).status == 143
    done = run(tool, [*own, "--resume", *more, "--allow-changed", more[0].removeprefix("--")], tmp_path / "b")
    assert done.status == 0, done.stderr
    assert follower in done.stderr


def test_two_processes_refuse_a_second_run_and_other_numbers(root: Path, stopped: Path, tmp_path: Path) -> None:
    ranks = run_two("classify", words(root, stopped, "--resume"), tmp_path / "stderr")
    assert [rank.status for rank in ranks] == [2, 2]
    assert "was made with the processes 1, now it is 2" in ranks[0].stderr


def _fsdp_words(root: Path, out: Path, parallel: str, *more: str) -> list[Any]:
    return words(
        root, out, "--parallel", parallel, "--ema-decay", "0.9", "--accumulate", "2", "--clip-norm", "1", *more
    )


@pytest.mark.skipif(tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6), reason="FSDP2 is from PyTorch 2.6 on")
def test_a_model_shared_out_trains_as_copies_do_and_goes_on_as_copies(root: Path, tmp_path: Path) -> None:
    copies, shared = tmp_path / "ddp", tmp_path / "fsdp"
    assert [rank.status for rank in run_two("classify", _fsdp_words(root, copies, "ddp"), tmp_path / "a")] == [0, 0]
    ranks = run_two("classify", _fsdp_words(root, shared, "fsdp"), tmp_path / "b", in_step(5))
    assert [rank.status for rank in ranks] == [143, 143], ranks
    ranks = run_two("classify", _fsdp_words(root, shared, "fsdp", "--resume"), tmp_path / "c")
    assert [rank.status for rank in ranks] == [0, 0], ranks
    ours, theirs = (read_metrics(out / "metrics.json") for out in (shared, copies))
    for a, b in zip(ours, theirs, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    for name in ("model_final.pth", "model_final_ema.pth"):
        ours, theirs = (read_weight_file(str(out / name))["model_state"] for out in (shared, copies))
        for key, tensor in theirs.items():
            torch.testing.assert_close(
                ours[key], tensor, rtol=1e-5, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
            )


def test_one_loss_that_is_too_large_names_images(root: Path, tmp_path: Path) -> None:
    done = run(
        "pretrain", ["--images", root / "train", "--output", tmp_path / "out", *WORDS, "--lr", "1e30"], tmp_path / "e"
    )
    assert done.status == 2, done.stderr
    assert "not finite" in done.stderr.splitlines()[-1]
