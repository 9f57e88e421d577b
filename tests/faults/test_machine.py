"""What a machine lacks: cores and shared memory for the processes that read images, and an answer from another one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from hiera_det.engine import machine
from hiera_det.engine.launch import launch
from hiera_det.engine.machine import available_cores, workers_by_cores, workers_by_memory
from hiera_det.errors import InputError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine of four cores; the folder is that of its control groups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    return tmp_path


def test_cores_are_those_of_affinity_and_of_the_control_groups_quota(four_cores: Path) -> None:
    assert available_cores() == 4
    (four_cores / "cpu.max").write_text("max 100000\n")
    assert available_cores() == 4
    (four_cores / "cpu.max").write_text("250000 100000\n")
    assert available_cores() == 2
    (four_cores / "cpu.max").write_text("50000 100000\n")
    assert available_cores() == 1


def test_more_workers_than_cores_are_said_and_lowered_unless_given(
    four_cores: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert workers_by_cores(4, "--workers") == 4
    assert workers_by_cores(None, "--workers") == 4
    assert not caplog.messages
    assert workers_by_cores(None, "--workers", 16) == 4
    assert "--workers is set to 4" in caplog.messages[-1]
    assert workers_by_cores(16, "--workers") == 16
    assert "--workers 16: more than there are cores" in caplog.messages[-1]
    assert workers_by_cores(999, "--workers") == 32
    assert caplog.messages[-1] == "--workers 999: far more than there are cores (4 cores): 32 read images"
    with pytest.raises(InputError, match="--workers -1: give 0, "):
        workers_by_cores(-1, "--workers")


class Large(torch.utils.data.Dataset[Any]):
    """Four samples of a MiB."""

    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor:
        return torch.full((2**20,), key[0], dtype=torch.uint8)


small_memory = pytest.mark.skipif(not (shutil.which("unshare") and os.geteuid() == 0), reason="takes root")
ORDER = [[(0, 0)], [(1, 0)], [(2, 0)], [(3, 0)]]


@pytest.mark.parametrize(("mib", "workers"), [(0, 0), (2, 0), (6, 2), (60, 4)])
def test_workers_whose_batches_shared_memory_does_not_hold_are_left_out(
    mib: int, workers: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    room = os.statvfs_result((4096, 4096, 10**6, 0, mib * 256, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: room)
    assert workers_by_memory(4, Large(), ORDER) == workers
    assert ("--shm-size" in caplog.text) == (workers < 4)


READING = """
import torch
from test_machine import ORDER, Large
from hiera_det.engine import loader
from hiera_det.engine.failures import explained
from hiera_det.errors import run_tool

def main() -> None:
    with explained("a step", "take less"):
        for batch in loader.keyed_loader(Large(), ORDER, 2, False, torch.stack):
            print(int(loader.unwrap(batch)[0, 0]))

"""


def read_with_little_shared_memory(script: str) -> subprocess.CompletedProcess[str]:
    """`Large` by two workers where /dev/shm has 1 MiB."""
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            "sh",
            "-c",
            f"mount -t tmpfs -o size=1m tmpfs /dev/shm && exec {sys.executable} -c '{script}'",
        ],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if "mount" in done.stderr and not done.stdout:
        pytest.skip("this container mounts nothing")
    return done


@small_memory
def test_where_shared_memory_is_tiny_images_are_read_all_the_same() -> None:
    done = read_with_little_shared_memory(READING + "run_tool(main)")
    assert done.stdout.split() == ["0", "1", "2", "3"], done.stderr
    assert "/dev/shm has 1 MiB free" in done.stderr


@small_memory
def test_shared_memory_that_others_fill_ends_the_run_in_one_line() -> None:
    unlooked = "loader.workers_by_memory = lambda workers, data, order: workers\n"
    done = read_with_little_shared_memory(READING + unlooked + "run_tool(main)")
    assert done.returncode == 2
    assert "cannot pass a batch on" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


WAITING = """
import time
import torch.distributed as dist
from hiera_det.engine.failures import explained
from hiera_det.engine.launch import launch
from hiera_det.errors import run_tool

def main() -> None:
    if dist.get_rank() == 1:
        time.sleep(600)
    with explained("a wait", "wait for less"):
        dist.barrier()

run_tool(lambda: launch(main, num_processes=2, device="cpu", timeout=0.1))
"""


def test_a_process_that_does_not_answer_in_time_ends_all_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(WAITING)
    since = time.monotonic()
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "has not answered in time" in line
    assert "--timeout MINUTES" in line
    assert time.monotonic() - since < 60


def test_a_timeout_that_is_none_is_refused() -> None:
    for minutes in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="--timeout"):
            launch(print, (), device="cpu", timeout=minutes)
