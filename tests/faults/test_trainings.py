"""All four trainings, as real processes, under faults of the machine: one line, nothing half-written, and they go on.

The long form is tests/kills.py.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from detections import write_boxes
from kills import KINDS, SAVE, STEP, Blow, _wrap, names, words_of
from media import write_class_folders
from trainings import Ended, run, start_ranks

from hiera_det.engine.events import read_metrics
from hiera_det.weights.sources import read_weight_file

ROOT = Path(__file__).parents[2]
SCRIPTS = {"detect": "train_net.py", "classify": "train_classifier.py"}


class Kind(NamedTuple):
    """One of the four trainings, with data of its own."""

    name: str
    folder: Path
    data: list[str]

    def words(self, out: Path, *more: str) -> list[Any]:
        return [*words_of(self.name, self.folder, self.data, out), *more]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    folder = tmp_path_factory.mktemp("data")
    boxes = write_boxes(folder)
    write_class_folders(folder / "train", 8)
    write_class_folders(folder / "val", 2)
    return {name: Kind(name, folder, boxes if name.startswith("detect") else []) for name in KINDS}


def assert_one_line(done: Ended, says: str) -> None:
    assert done.status == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1, done.stderr
    assert says in done.stderr.splitlines()[-1]


def _clock_goes_back() -> None:
    begun, real = time.time(), time.time
    time.time = lambda: begun - (86400 if real() - begun > 0.5 else 0) + (real() - begun)


@pytest.mark.parametrize("name", KINDS)
def test_killed_in_the_midst_of_writing_a_checkpoint_and_gone_on_with_a_day_before(
    name: str, kinds: dict[str, Kind], tmp_path: Path
) -> None:
    kind, out, note = kinds[name], tmp_path / "out", tmp_path / "note"
    blow = Blow("saving", signal.SIGKILL, SAVE, call=5 if kind.data else 4)
    killed = run(name, kind.words(out), tmp_path / "said", blow.patch(note))
    assert killed.status == -signal.SIGKILL, killed.stderr
    assert any("partial" in path.name for path in out.iterdir())
    checkpoints = list(out.glob("*.pth"))
    assert checkpoints
    for path in checkpoints:
        read_weight_file(str(path))
    again = run(name, kind.words(out), tmp_path / "said", _clock_goes_back)
    assert again.status == 0, again.stderr
    assert not [name for name in names(out) if "partial" in name or "lock" in name]
    lines = [(line["iteration"], *sorted(line)) for line in read_metrics(out / "metrics.json")]
    assert len(lines) == len(set(lines))


def test_the_best_weights_are_no_checkpoint_to_go_on_from(kinds: dict[str, Kind], tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = kinds["detect"].words(out, "TEST.BEST", "bbox/AP")
    blow = Blow("step", signal.SIGKILL, STEP, call=9)  # after the evaluation at 8 and the checkpoint at 6
    assert run("detect", words, tmp_path / "said", blow.patch(tmp_path / "note")).status == -signal.SIGKILL
    assert (out / "model_best.pth").is_file()
    assert (out / "last_checkpoint").read_text() == "model_0000005.pth"
    again = run("detect", words, tmp_path / "said")
    assert again.status == 0, again.stderr
    assert "model_0000005.pth" in again.stderr


def _small_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("name", ["detect", "detect-lazy", "pretrain"])
def test_a_disk_that_stays_full_ends_the_training_after_the_third_checkpoint(
    name: str, kinds: dict[str, Kind], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    alone = [] if kinds[name].data else ["--workers", "0"]  # the limit would be one of shared memory too
    done = run(name, kinds[name].words(out, *alone), tmp_path / "said", partial(_small_files, 60_000))
    assert_one_line(done, "3 checkpoints in a row could not be saved")
    assert not [path for path in out.iterdir() if "partial" in path.name]


def _fail(reason: Callable[[], object]) -> None:
    def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        def step(self: Any, parts: Any, at: int = 0) -> Any:
            if at == 5:
                reason()
            return original(self, parts, at)

        return step

    _wrap(STEP, wrapper)


def _tensor_too_large() -> None:
    torch.empty(2**60)


def _array_too_large() -> None:
    np.empty(2**60, dtype=np.uint8)


@pytest.mark.parametrize("reason", [_tensor_too_large, _array_too_large])
@pytest.mark.parametrize("name", ["detect", "classify"])
def test_memory_that_is_not_there_is_one_line_and_the_checkpoint_before_stays(
    name: str, reason: Callable[[], object], kinds: dict[str, Kind], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run(name, kinds[name].words(out), tmp_path / "said", partial(_fail, reason))
    assert_one_line(done, "out of memory in ")
    assert "raise " in done.stderr.splitlines()[-1]
    assert [path for path in out.glob("*.pth") if read_weight_file(str(path))]


def _kill_worker(call: int) -> None:
    def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        calls = 0

        def read(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return read

    _wrap(("hiera_det.d2.data.mapper", "TrainMapper.__call__"), wrapper)
    _wrap(("hiera_det.d2.data.batches", "EvalImages.__getitem__"), wrapper)


@pytest.mark.parametrize("call", [2, 8])
def test_a_detectors_killed_loader_worker_is_named(call: int, kinds: dict[str, Kind], tmp_path: Path) -> None:
    done = run("detect", kinds["detect"].words(tmp_path / "out"), tmp_path / "said", partial(_kill_worker, call))
    assert_one_line(done, "a process that reads images is gone")


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_locale_no_home_and_a_folder_with_blanks_and_accents(
    name: str, kinds: dict[str, Kind], tmp_path: Path
) -> None:
    place = tmp_path / "données  d'été \u65e5\u672c"
    place.mkdir()
    moved = Kind(name, place, [])
    if name == "detect":
        moved = moved._replace(data=write_boxes(place))
    else:
        write_class_folders(place / "train", 8)
        write_class_folders(place / "val", 2)
    bare = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG"))}
    bare |= {"LC_ALL": "C", "HOME": "/proc", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, ROOT / "tools" / SCRIPTS[name], *moved.words(place / "out")]
    done = subprocess.run(list(map(str, command)), env=bare, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    final = place / "out" / ("model_final.pth" if name == "detect" else "checkpoint.pth")
    assert final.is_file()
    for path in place.joinpath("out").glob("*.pth"):  # what people hand on tells nothing of where they work
        assert str(tmp_path).encode() not in path.read_bytes(), path


def _score_for_minutes(note: str) -> None:
    def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        def evaluate(*args: Any) -> Any:
            Path(note).touch()
            for _ in range(9000):
                time.sleep(0.01)
            return original(*args)

        return evaluate

    _wrap(("hiera_det.d2.predict.evaluation", "Evaluator._evaluate"), wrapper)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_while_ap_is_computed_is_not_waited_for(
    processes: int, kinds: dict[str, Kind], tmp_path: Path
) -> None:
    out, note = tmp_path / "out", tmp_path / "note"
    words, patch = kinds["detect"].words(out), partial(_score_for_minutes, str(note))
    ranks = start_ranks("detect", words, tmp_path / "said", patch, processes)
    while not note.exists():
        assert ranks[0].process.is_alive(), ranks[0].stderr.read_text()[-2000:]
        time.sleep(0.05)
    begun = time.monotonic()
    for rank in ranks:
        os.kill(rank.process.pid or 0, signal.SIGTERM)
    done = [rank.wait() for rank in ranks]
    assert time.monotonic() - begun < 30
    assert [ended.status for ended in done] == [143] * processes, done[0].stderr[-2000:]
    assert "Traceback" not in "".join(ended.stderr for ended in done)
    assert (out / "last_checkpoint").read_text() == "model_0000003.pth"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_training_outlasts_the_pipe_that_it_speaks_to(name: str, kinds: dict[str, Kind], tmp_path: Path) -> None:
    out = tmp_path / "run.txt"  # detectron2 would take a folder of this name for the log
    command = [sys.executable, ROOT / "tools" / SCRIPTS[name], *kinds[name].words(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )
    assert running.stdout
    running.stdout.readline()
    running.stdout.close()
    assert running.wait(120) == 0
    assert (out / "model_final.pth").is_file()
    assert "iter" in (out / "log.txt").read_text() or name == "classify"


@pytest.mark.parametrize("file", ["log.txt", ".lock"])
@pytest.mark.parametrize("name", ["detect", "classify"])
def test_a_folder_in_the_place_of_a_file_is_one_line(
    name: str, file: str, kinds: dict[str, Kind], tmp_path: Path
) -> None:
    (tmp_path / "out" / file).mkdir(parents=True)
    done = run(name, kinds[name].words(tmp_path / "out"), tmp_path / "said")
    assert_one_line(done, f"{file}: cannot be written (Is a directory)")
