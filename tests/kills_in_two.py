"""Kills and signals to trainings of two processes: the part ``--two-processes`` of tests/kills.py.

The tools run as users start them: with ``--num-gpus 2`` on a CPU, where a signal reaches the whole group, the starting
process and loader workers included, or one process is killed; and under torchrun, which starts all anew.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detections import CONFIGS, SMALL, write_boxes
from media import write_class_folders
from test_exact import LAZY, TRAINING
from test_exactness import words as plain_words

ROOT = Path(__file__).parents[1]
SCRIPTS = {
    "detect": "train_net.py",
    "detect-lazy": "lazyconfig_train_net.py",
    "pretrain": "pretrain_mae.py",
    "classify": "train_classifier.py",
}
#: What comes, to all processes or to one, and the exit statuses that follow.
BLOWS = {
    "kill -9, all": (signal.SIGKILL, -signal.SIGKILL),
    "SIGTERM, all": (signal.SIGTERM, 143),
    "SIGINT, all": (signal.SIGINT, 130),
    "SIGUSR1, all": (signal.SIGUSR1, 143),
    "kill -9, first": (signal.SIGKILL, 2),
    "kill -9, second": (signal.SIGKILL, 2),
    "torchrun, kill -9, first": (signal.SIGKILL, 0),
    "torchrun, kill -9, second": (signal.SIGKILL, 0),
}
#: Seconds in which all processes must have ended when one is lost.
PATIENCE = 60
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2"]


class Pair:
    """A training of two processes, in a folder of its own.

    Args:
        kind: of `SCRIPTS`.
        folder: for data and outputs.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder, self.said = kind, folder, folder / "said"
        self.data = write_boxes(folder) if kind.startswith("detect") else []
        if not self.data:
            write_class_folders(folder / "train", 8)
            write_class_folders(folder / "val", 2)
        self.straight = folder / "straight"
        status, _ = self.wait(self.start(self.straight))
        assert status == 0, self.said.read_text()

    def words(self, out: Path, *flags: str) -> list[Any]:
        if self.kind == "detect":
            longer = ["SOLVER.MAX_ITER", "30", "TEST.EVAL_PERIOD", "10", "DATALOADER.NUM_WORKERS", "1"]
            config = ["--config-file", CONFIGS / "quick_start.yaml", *self.data, *flags]
            return [*config, *SMALL, *TRAINING, *longer, "OUTPUT_DIR", out]
        if self.kind == "detect-lazy":
            lazy = self.folder / "lazy"
            if not lazy.is_dir():
                shutil.copytree(CONFIGS / "lazy", lazy)
                (lazy / "small.py").write_text(LAZY)
            longer = ["train.max_iter=30", "train.eval_period=10", "dataloader.train.num_workers=1"]
            return ["--config-file", lazy / "small.py", *self.data, *flags, *longer, f"train.output_dir={out}"]
        return [*plain_words(self.kind, self.folder, out), "--epochs", "12", "--workers", "1", *flags]

    def start(self, out: Path, *flags: str, torchrun: bool = False) -> subprocess.Popen[bytes]:
        before, after = (TORCHRUN, ()) if torchrun else ([], ("--num-gpus", "2"))
        words = [sys.executable, *before, ROOT / "tools" / SCRIPTS[self.kind], *self.words(out, *flags, *after)]
        with open(self.said, "w") as file:
            return subprocess.Popen(list(map(str, words)), stdout=file, stderr=file, start_new_session=True)

    def wait(self, running: subprocess.Popen[bytes], seconds: float = 300) -> tuple[int | None, list[int]]:
        """The exit status and the processes that are still there; None and all where they do not end."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and (running.poll() is None or _group(running.pid)):
            time.sleep(0.05)
        left = _group(running.pid)
        if left:
            os.killpg(running.pid, signal.SIGKILL)
        return running.poll(), left

    def strike(self, blow: str, out: Path, delay: float) -> str:
        """Start a run, stop it some time after its first checkpoint, let it go on; what is wrong, or nothing."""
        number, expected = BLOWS[blow]
        torchrun = blow.startswith("torchrun")
        running = self.start(out, torchrun=torchrun)
        while not (out / "last_checkpoint").is_file():
            if running.poll() is not None:
                return f"ended too soon: {self.said.read_text()[-1500:]}"
            time.sleep(0.005)
        time.sleep(delay)
        if blow.endswith("all"):
            os.killpg(running.pid, number)
        else:
            os.kill(_ranks(running.pid)[blow.endswith("second")], number)
        status, left = self.wait(running, 300 if torchrun else PATIENCE)
        said = self.said.read_text()
        if status != expected or left:
            return f"exit status {status}, {len(left)} processes left: {said[-1500:]}"
        if not torchrun and ("Traceback" in said or said.count("error: ") != (status == 2)):
            return f"more than a line: {said[-1500:]}"
        if torchrun:
            return "" if "resuming" in said else f"no restart: {said[-1500:]}"
        status, _ = self.wait(self.start(out, "--resume"))
        return "" if status == 0 else f"cannot go on: {self.said.read_text()[-1500:]}"


def _stat(pid: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _group(leader: int) -> list[int]:
    """The living processes of a session."""
    found = {int(pid): _stat(pid) for pid in os.listdir("/proc") if pid.isdecimal()}
    return [pid for pid, stat in found.items() if stat and stat[0] != "Z" and int(stat[3]) == leader]


def _ranks(parent: int) -> list[int]:
    """The training's processes among a process's children, by rank."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    lines = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
    return sorted(pid for pid, line in lines.items() if b"spawn_main" in line or b"tools/" in line)


def campaign(
    folder: Path, kinds: list[str], rounds: int, seed: int, compare: Callable[[Path, Path], tuple[list[str], str]]
) -> list[str]:
    """Deal all blows to all kinds and print a table.

    Args:
        folder: for data and outputs.
        kinds: of `SCRIPTS`.
        rounds: how often.
        seed: of the moments.
        compare: a run's folder and a straight run's, to what is wrong and a cell of the table.

    Returns:
        what was wrong.
    """
    wrong: list[str] = []
    table = [
        "| training | blow | runs | as expected | strays, duplicates, values compared, equal |",
        "|---|---|---|---|---|",
    ]
    since, total = time.monotonic(), len(kinds) * len(BLOWS) * rounds
    done = 0
    for kind in kinds:
        (folder / kind).mkdir()
        pair, chance = Pair(kind, folder / kind), random.Random(f"{seed} {kind}")
        for blow in BLOWS:
            right, cells = 0, []
            for _ in range(rounds):
                out = folder / kind / f"run{done}"  # a comma in a path would have to be quoted in a LazyConfig's pair
                text = pair.strike(blow, out, chance.uniform(0, 0.5))
                faults, cell = ([text], "") if text else compare(out, pair.straight)
                right, cells = right + (not faults), [*cells, cell]
                wrong += [f"{kind} {blow}: {fault}" for fault in faults]
                done += 1
                left = (time.monotonic() - since) / done * (total - done)
                print(f"{done}/{total}  {kind} {blow}: {faults or 'as expected'}  ETA {left / 60:.1f} min", flush=True)
            table.append(f"| {kind} | {blow} | {rounds} | {right} | {'; '.join(cells)} |")
    print("\n".join(table))
    return wrong
