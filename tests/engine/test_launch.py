"""Where a process stands, from what torchrun and SLURM say; processes that meet are in tests/d2/test_scale.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hiera_det.engine.launch import Place, first_host, is_restart, launch, place_from_environment
from hiera_det.errors import InputError

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
TORCHRUN |= {"MASTER_ADDR": "first", "MASTER_PORT": "29500"}
SRUN = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_NODES": "2"}
SRUN |= {"SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_JOB_ID": "1234567"}


def test_torchruns_environment_is_taken_up() -> None:
    assert place_from_environment(TORCHRUN) == Place(5, 8, 1, 4, "env://")


def test_sruns_environment_is_taken_up() -> None:
    assert place_from_environment(SRUN) == Place(5, 8, 1, 4, "tcp://gpu07:54567")
    named = SRUN | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4000"}
    place = place_from_environment(named)
    assert place is not None
    assert place.address == "tcp://10.0.0.1:4000"


def test_torchrun_under_srun_counts() -> None:
    assert place_from_environment(SRUN | TORCHRUN) == Place(5, 8, 1, 4, "env://")


@pytest.mark.parametrize("environment", [{}, {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}])
def test_neither_a_shell_nor_a_batch_script_is_a_process_of_a_group(environment: dict[str, str]) -> None:
    assert place_from_environment(environment) is None


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node1", "node1"),
        ("n[03-05,9],x", "n03"),
        ("n[7],x", "n7"),
        ("a,b", "a"),
        ("rack1-n[001-004]-ib", "rack1-n001-ib"),
    ],
)
def test_the_first_host_of_slurms_list(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({key: value for key, value in TORCHRUN.items() if key != "MASTER_PORT"}, "MASTER_PORT"),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "3"}, "8 processes with 3"),
        (TORCHRUN | {"RANK": "x"}, "RANK='x': must be a whole number"),
        (TORCHRUN | {"WORLD_SIZE": "-1"}, "WORLD_SIZE='-1'"),
        (TORCHRUN | {"RANK": "9"}, "process 9 of 8"),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "8(x2)"}, "SLURM_STEP_NUM_TASKS"),
        (SRUN | {"SLURM_STEP_NUM_NODES": "3"}, "--ntasks-per-node"),
        (SRUN | {"SLURM_LOCALID": "2"}, "--distribution=block"),
    ],
)
def test_an_environment_that_does_not_fit_is_one_line(environment: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        place_from_environment(environment)


def test_a_restart_is_told_from_a_start() -> None:
    assert is_restart({"TORCHELASTIC_RESTART_COUNT": "2"})
    assert not is_restart({"TORCHELASTIC_RESTART_COUNT": "0"})
    assert not is_restart({})


def test_one_process_runs_here() -> None:
    seen: list[int] = []
    launch(seen.append, (3,), device="cpu")
    assert seen == [3]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"num_machines": 2}, "--dist-url auto is for one machine"),
        ({"num_machines": 2, "machine_rank": 2, "dist_url": "tcp://first:29500"}, "--machine-rank 2"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(flags: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        launch(print, (), device="cpu", **flags)  # type: ignore[arg-type]


REFUSED = """
from hiera_det.engine.launch import launch
from hiera_det.errors import InputError, run_tool

def main() -> None:
    raise InputError("x.jpg: cannot be read")

if __name__ == "__main__":
    run_tool(lambda: launch(main, num_processes=2, device="cpu"))
"""


def test_a_mistake_that_all_processes_meet_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(REFUSED)
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: x.jpg: cannot be read\n")


ENDED = """
import os, signal
import torch.distributed as dist
from hiera_det.engine.failures import explained
from hiera_det.engine.launch import launch
from hiera_det.errors import run_tool

def main(to_all: bool) -> None:
    if dist.get_rank() == 1:
        os.killpg(0, signal.SIGUSR1) if to_all else os.kill(os.getpid(), signal.SIGKILL)
    with explained("a wait", "wait for less"):
        dist.barrier()

if __name__ == "__main__":
    run_tool(lambda: launch(main, (TO_ALL,), num_processes=2, device="cpu"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="signals to groups of processes")
@pytest.mark.parametrize(("to_all", "status", "lines"), [(False, 2, 1), (True, 143, 0)])
def test_a_lost_process_is_said_once_and_a_requeue_signal_to_the_group_ends_without_a_word(
    to_all: bool, status: int, lines: int, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(ENDED.replace("TO_ALL", str(to_all)))
    command = [sys.executable, tmp_path / "script.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, start_new_session=True)
    assert done.returncode == status, done.stderr
    assert len(done.stderr.splitlines()) == lines, done.stderr
    assert "Traceback" not in done.stderr
