"""Kills and signals by the dozen over the four trainings: the long form of the tests of faults.

    python tests/kills.py --kills 100 --signals 60 --seed 0

Each run is killed or signalled again and again, goes on, and must end as one that nothing has stopped: the same
weights, optimizer, averages and metrics, bit for bit; every checkpoint readable at every moment; nothing half-written
left.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "d2"), str(HERE / "tasks"), str(HERE.parent)]

import torch
from detections import CONFIGS, SMALL, write_boxes
from media import write_class_folders
from test_exact import LAZY, TRAINING, flat, metrics
from test_exactness import words as plain_words
from trainings import before, run, start

from hiera_det.weights.sources import read_weight_file

KINDS = ("detect", "detect-lazy", "pretrain", "classify")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
#: Calls in the midst of writing a checkpoint or its tag.
WRITING = (("torch", "save"), ("os", "replace"), ("os", "fsync"))


def same(a: Any, b: Any) -> bool:
    """Equality of two values of a checkpoint; NaN is NaN."""
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b or (a != a and b != b)


class Campaign:
    """One kind of training, in a folder of its own."""

    def __init__(self, kind: str, folder: Path, chance: random.Random) -> None:
        self.kind, self.folder, self.chance = kind, folder, chance
        self.data = write_boxes(folder) if kind.startswith("detect") else []
        if not self.data:
            write_class_folders(folder / "train", 8)
            write_class_folders(folder / "val", 2)
        since = time.monotonic()
        done = run(kind, self.words(folder / "straight"), folder / "said")
        assert done.status == 0, done.stderr
        self.seconds = time.monotonic() - since
        self.count = 0

    def words(self, out: Path) -> list[Any]:
        if self.kind == "detect":
            words = ["--config-file", str(CONFIGS / "quick_start.yaml"), *self.data, *SMALL, *TRAINING]
            return ["--auto-resume", *words, "OUTPUT_DIR", str(out)]
        if self.kind == "detect-lazy":
            lazy = self.folder / "lazy"
            if not lazy.is_dir():
                shutil.copytree(CONFIGS / "lazy", lazy)
                (lazy / "small.py").write_text(LAZY)
            return ["--auto-resume", "--config-file", str(lazy / "small.py"), *self.data, f"train.output_dir={out}"]
        return [*plain_words(self.kind, self.folder, out), "--auto-resume"]

    def disturb(self, out: Path, number: int) -> int:
        """Start, or go on with, a run and stop it somewhere; its exit status."""
        patch = None
        if number == signal.SIGKILL and self.chance.random() < 0.5:
            patch = before(*self.chance.choice(WRITING), self.chance.randint(1, 6), number)
        running = start(self.kind, self.words(out), self.folder / "said", patch)
        if patch is None:
            running.process.join(self.chance.uniform(0.2, 1.0) * self.seconds)
            if running.process.exitcode is None:
                os.killpg(running.process.pid or 0, number)
        return running.wait().status

    def check(self, out: Path) -> None:
        """Every checkpoint can be read, whatever was just done to the run."""
        for path in out.glob("*.pth"):
            read_weight_file(str(path))

    def finish(self, out: Path) -> None:
        done = run(self.kind, self.words(out), self.folder / "said")
        assert done.status == 0, done.stderr
        straight = self.folder / "straight"
        for name in ("model_final.pth", "model_final_ema.pth"):
            a, b = (flat(torch.load(place / name, weights_only=True)) for place in (out, straight))
            assert a.keys() == b.keys()
            different = [key for key in a if not same(a[key], b[key])]
            assert not different, (name, different[:5])
        assert metrics(out) == metrics(straight)
        assert not list(out.glob(".*.partial")), "a stray file"

    def go(self, times: int, numbers: tuple[int, ...]) -> dict[int, int]:
        """So many kills or signals, in runs of a few each; how often each exit status came."""
        statuses: dict[int, int] = {}
        left = times
        while left:
            self.count += 1
            out = self.folder / f"run{self.count}"
            for _ in range(min(left, self.chance.randint(1, 4))):
                status = self.disturb(out, self.chance.choice(numbers))
                statuses[status] = statuses.get(status, 0) + 1
                self.check(out)
                left -= 1
            self.finish(out)
        return statuses


def main() -> None:
    """Run the campaigns one after the other and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--signals", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            place = Path(folder) / kind
            place.mkdir()
            campaign = Campaign(kind, place, chance)
            killed = campaign.go(args.kills // len(KINDS), (signal.SIGKILL,))
            signalled = campaign.go(args.signals // len(KINDS), SIGNALS)
            print(
                f"{kind}: kills by exit status {killed}, signals {signalled}; all ended as the straight run", flush=True
            )


if __name__ == "__main__":
    main()
