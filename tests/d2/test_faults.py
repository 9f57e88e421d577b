"""What ends or disturbs a detector's training: one line, the right exit status, and it goes on after."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from detections import CONFIGS, SMALL, write_boxes
from trainings import Ended, before, in_step, run, start

from hiera_det.engine.events import read_metrics

STEPS = 8
TRAINING = f"SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER {STEPS} SOLVER.STEPS () SOLVER.CHECKPOINT_PERIOD 3 SEED 5".split()
TRAINING += ["TEST.EVAL_PERIOD", "4", "DATALOADER.NUM_WORKERS", "1", "SOLVER.CHECKPOINT_MINUTES", "0"]


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return ["--config-file", str(CONFIGS / "quick_start.yaml"), *write_boxes(tmp_path_factory.mktemp("data"))]


def words(flags: list[str], out: Path, *more: str, resume: bool = False) -> list[str]:
    return [*(["--resume"] if resume else []), *flags, *SMALL, *TRAINING, "OUTPUT_DIR", str(out), *more]


def checkpoints(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("model_[0-9f]*.pth"))


def assert_one_line(done: Ended, status: int, says: str) -> None:
    assert done.status == status, done.stderr
    assert "Traceback" not in done.stderr
    assert says in done.stderr


#: Where a signal comes: the patch that sends it, and the checkpoint that is the newest then.
MOMENTS = {
    "step": (partial(in_step, 5), "model_0000003.pth"),  # before its data are there, which are not waited for
    "data wait": (partial(before, "hiera_det.d2.data.mapper", "TrainMapper.__call__", 14), None),
    "evaluation": (partial(before, "hiera_det.d2.predict.evaluation", "Evaluator.process", 3), "model_0000003.pth"),
    "saving": (partial(before, "hiera_det.engine.checkpoint", "Checkpoints.save", 1), "model_0000002.pth"),
}


@pytest.mark.parametrize(
    ("moment", "number", "status"),
    [
        *((moment, signal.SIGTERM, 143) for moment in MOMENTS),
        ("step", signal.SIGINT, 130),
        ("step", signal.SIGUSR1, 143),
    ],
)
def test_a_signal_to_the_group_saves_and_ends_in_one_line(
    moment: str, number: signal.Signals, status: int, flags: list[str], tmp_path: Path
) -> None:
    patch, newest = MOMENTS[moment]
    done = run("detect", words(flags, tmp_path / "out"), tmp_path / "said", patch(number=number))
    assert_one_line(done, status, f"stopped by {number.name}")
    names = checkpoints(tmp_path / "out")
    assert (tmp_path / "out" / "last_checkpoint").read_text() == names[-1]
    assert newest is None or names[-1] == newest
    assert "model_final.pth" not in names
    again = run("detect", words(flags, tmp_path / "out", resume=True), tmp_path / "said")
    assert again.status == 0, again.stderr
    lines = [line["iteration"] for line in read_metrics(tmp_path / "out" / "metrics.json")]
    assert lines == sorted(set(lines))
    assert {3, STEPS - 1, STEPS} <= set(lines)  # an evaluation that was cut is made up for


def test_a_signal_in_the_set_up_ends_in_one_line_and_leaves_no_checkpoint(flags: list[str], tmp_path: Path) -> None:
    patch = before("hiera_det.d2.config.setup", "check_work")
    done = run("detect", words(flags, tmp_path / "out"), tmp_path / "said", patch)
    assert_one_line(done, 143, "stopped by SIGTERM")
    assert not checkpoints(tmp_path / "out")


def test_a_second_run_is_refused_and_so_is_a_used_folder(flags: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = start("detect", words(flags, out, "SOLVER.MAX_ITER", "400"), tmp_path / "first")
    while not (out / "model_0000002.pth").is_file():
        assert first.process.is_alive()
    second = run("detect", words(flags, out, "SOLVER.MAX_ITER", "400", resume=True), tmp_path / "second")
    assert_one_line(second, 2, "a training runs there (process ")
    first.process.kill()
    first.process.join()
    used = run("detect", words(flags, out), tmp_path / "third")
    assert_one_line(used, 2, "a training is there already")


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(flags: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("detect", words(flags, out), tmp_path / "said", in_step(7)).status == 143
    newest = out / "model_0000005.pth"
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 65536] = bytes(65536)
    newest.write_bytes(damaged)
    done = run("detect", words(flags, out, resume=True), tmp_path / "said")
    assert done.status == 0, done.stderr
    assert "going on from" in done.stderr
    assert "model_0000002.pth instead" in done.stderr


def test_a_gradient_that_is_not_finite_takes_no_step_and_leaves_no_checkpoint(flags: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("detect", words(flags, out), tmp_path / "said", partial(_poison, 4))
    assert_one_line(done, 2, "error: iteration 4: not finite: ")
    assert ".png" in done.stderr
    assert checkpoints(out) == ["model_0000002.pth"]
    allowed = run(
        "detect", words(flags, tmp_path / "b", "SOLVER.SKIP_NONFINITE", "1"), tmp_path / "x", partial(_poison, 4)
    )
    assert allowed.status == 0, allowed.stderr
    final = torch.load(tmp_path / "b" / "model_final.pth", weights_only=True)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in final["model"].values())


def _poison(iteration: int) -> None:
    """Make a gradient of one step infinite."""
    from hiera_det.engine.step import Step

    original = Step.__call__

    def call(self: Step, parts: Any, at: int = 0) -> Any:
        if at == iteration:
            weight = next(iter(self.model.parameters()))
            hook = weight.register_hook(lambda gradient: gradient * float("inf"))
            try:
                return original(self, parts, at)
            finally:
                hook.remove()
        return original(self, parts, at)

    Step.__call__ = call  # type: ignore[method-assign]
