"""Kills and signals by the dozen over the four trainings: the long form of the tests of faults.

    python tests/kills.py --kills 100 --signals 60 --seed 0
    python tests/kills.py --two-processes --seed 0

Runs are killed or signalled again and again, at a moment of each phase or at any, go on, and must end as one that
nothing has stopped: the same weights, optimizer, averages and metrics, bit for bit; every checkpoint readable at every
moment, no more than a period lost, nothing half-written left. ``--kinds`` and ``--kills 0`` or ``--signals 0`` run a
part of the whole, the same as in it.
"""

from __future__ import annotations

import argparse
import importlib
import io
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from operator import add
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "d2"), str(HERE / "tasks"), str(HERE.parent)]

import torch
from detections import CONFIGS, SMALL, write_boxes
from kills_in_two import SCRIPTS, campaign
from media import write_class_folders
from test_exact import LAZY, TRAINING, flat, metrics
from test_exactness import words as plain_words
from trainings import Ended, Patch, in_step, run, start

from hiera_det.engine.checkpoint import CHECKPOINT, FINAL, NUMBERED, PREVIOUS, Checkpoints
from hiera_det.engine.stop import exit_status
from hiera_det.errors import InputError
from hiera_det.weights.sources import read_weight_file

KINDS = ("detect", "detect-lazy", "pretrain", "classify")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
#: Steps between checkpoints of all four.
PERIOD = 3
Place = tuple[str, str]
STEP: Place = ("hiera_det.engine.step", "Step.__call__")
LOCK: Place = ("hiera_det.engine.checkpoint", "FolderLock.__enter__")
BUILDING: dict[str, Place] = {
    "detect": ("hiera_det.d2.train.checkpoint", "HieraCheckpointer.resume_or_load"),
    "detect-lazy": ("hiera_det.d2.train.checkpoint", "HieraCheckpointer.resume_or_load"),
    "pretrain": ("hiera_det.engine.loop", "Loop.__init__"),
    "classify": ("hiera_det.engine.loop", "Loop.__init__"),
}
MAPPER: Place = ("hiera_det.d2.data.mapper", "TrainMapper.__call__")
READER: Place = ("hiera_det.tasks.transforms", "ImageReader.__call__")
EVALUATION: dict[str, Place] = {
    "detect": ("hiera_det.d2.predict.evaluation", "Evaluator.process"),
    "detect-lazy": ("hiera_det.d2.predict.evaluation", "Evaluator.process"),
    "pretrain": ("hiera_det.tasks.pretrain.pictures", "reconstruct"),
    "classify": ("hiera_det.tasks.classify.loss", "_counts"),
}
#: Up to which call of a run a phase is caught.
CALLS = {"set-up": 1, "step": 9, "data wait": 18, "evaluation": 3, "saving": 6}
#: Kills at "any moment" come by the clock.
PHASES = (*CALLS, "any moment")
#: In the midst of writing: within a checkpoint's bytes or a line of the metrics, and before what comes after.
SAVE: Place = ("torch", "save")
LINE: Place = ("hiera_det.engine.events", "MetricsFile._write")
RENAME: Place = ("os", "replace")
LINK: Place = ("os", "link")  # of a plain training, which keeps the checkpoint before
WRITING = (SAVE, SAVE, LINE, ("os", "fsync"), RENAME, LINK, ("pathlib", "Path.unlink"))


@dataclass(frozen=True)
class Blow:
    """A kill or signal at one moment of a run; also the patch that deals it.

    Attributes:
        phase: of `PHASES`.
        number: of the signal.
        place: module and name of a function, before which it comes; within what `torch.save` or the metrics write.
        call: of it, from 1.
        group: sent to all of the run's processes, else to its main process alone.
        part: of the bytes that are written before.
    """

    phase: str
    number: int
    place: Place = ("", "")
    call: int = 1
    group: bool = True
    part: float = 0.5

    def patch(self, note: Path) -> Patch:
        """What a run calls first; ``note`` gets a line per step done, and one of the blow."""
        return partial(_prepare, self, str(note))


def _prepare(blow: Blow, note: str) -> None:
    def noted(original: Callable[..., Any]) -> Callable[..., Any]:
        def step(self: Any, parts: Any, at: int = 0) -> Any:
            losses = original(self, parts, at)
            _write(note, f"step {at}")
            return losses

        return step

    def caught(original: Callable[..., Any]) -> Callable[..., Any]:
        calls = 0

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            worker = torch.utils.data.get_worker_info()
            calls += worker is None or worker.id == 0  # one of the workers is enough
            if calls == blow.call and (worker is None or worker.id == 0):
                return _deal(blow, note, original, args, kwargs)
            return original(*args, **kwargs)

        return call

    if blow.place[0]:
        _wrap(blow.place, caught)
    _wrap(STEP, noted)


def _wrap(place: Place, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    owner: Any = importlib.import_module(place[0])
    *path, last = place[1].split(".")
    for name in path:
        owner = getattr(owner, name)
    setattr(owner, last, wrapper(getattr(owner, last)))


def _write(note: str, line: str) -> None:
    with open(note, "a") as file:
        file.write(line + "\n")


def _deal(blow: Blow, note: str, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Send the signal: in a file, when a part of it is written; from a worker, when its batch is waited for."""
    if blow.place == SAVE:
        whole = io.BytesIO()
        original(args[0], whole)
        at = int(blow.part * whole.tell())
        args[1].write(whole.getvalue()[:at])
        args[1].flush()
        _send(blow, note)
        args[1].write(whole.getvalue()[at:])
        return None
    if blow.place == LINE:
        if blow.number == signal.SIGKILL:
            with open(args[0].path, "a") as file:
                file.write(args[1][: int(blow.part * len(args[1]))])
    elif torch.utils.data.get_worker_info():
        time.sleep(0.5)
    _send(blow, note)
    return original(*args, **kwargs)


def _send(blow: Blow, note: str) -> None:
    workers = bool(multiprocessing.active_children() or torch.utils.data.get_worker_info())
    _write(note, f"blow {int(workers)}")
    os.killpg(0, blow.number) if blow.group else os.kill(os.getpid(), blow.number)
    time.sleep(0.05)


@dataclass
class Row:
    """What came of one phase of one training."""

    kills: int = 0
    writing: int = 0
    signals: int = 0
    with_workers: int = 0
    runs: int = 0
    unreadable: int = 0
    lost_by_kill: int = 0
    lost_by_signal: int = 0
    seconds_to_save: float = 0.0
    strays: int = 0
    duplicates: int = 0
    compared: int = 0
    equal: int = 0

    def __add__(self, other: Row) -> Row:
        most = ("lost_by_kill", "lost_by_signal", "seconds_to_save")
        return Row(**{k: (max if k in most else add)(v, getattr(other, k)) for k, v in vars(self).items()})


def table(rows: Mapping[tuple[str, str], Row]) -> str:
    """All rows and their sum; lost steps are the most that a single kill or signal cost."""
    total = Row()
    for row in rows.values():
        total += row
    total.seconds_to_save = round(total.seconds_to_save, 2)
    names = [name.replace("_", " ") for name in vars(total)]
    cells = [["training", "phase", *names]]
    cells += [[*key, *map(str, vars(row).values())] for key, row in {**rows, ("all", ""): total}.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in [cells[0], ["---"] * len(cells[0]), *cells[1:]])


class Progress:
    """Says how far the work is, and what was found wrong."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.since = total, 0, time.monotonic()
        self.wrong: list[str] = []

    def add(self, text: str) -> None:
        self.done += 1
        left = (time.monotonic() - self.since) / self.done * (self.total - self.done)
        print(f"{self.done}/{self.total}  {text}  ETA {left / 60:.1f} min", flush=True)

    def fault(self, text: str) -> None:
        self.wrong.append(text)
        print(f"WRONG: {text}", flush=True)


def words_of(kind: str, folder: Path, data: list[str], out: Path) -> list[Any]:
    """The command line of a training of one of `KINDS`.

    Args:
        kind: of training.
        folder: has the images of a plain training; gets the configs of a LazyConfig's.
        data: a detector's flags.
        out: the output folder.
    """
    if kind == "detect":
        words = ["--config-file", str(CONFIGS / "quick_start.yaml"), *data, *SMALL, *TRAINING]
        return ["--auto-resume", *words, "OUTPUT_DIR", str(out)]
    if kind == "detect-lazy":
        lazy = folder / "lazy"
        if not lazy.is_dir():
            shutil.copytree(CONFIGS / "lazy", lazy)
            (lazy / "small.py").write_text(LAZY)
        return ["--auto-resume", "--config-file", str(lazy / "small.py"), *data, f"train.output_dir={out}"]
    more = ["--picture-epochs", "1"] if kind == "pretrain" else []
    return [*plain_words(kind, folder, out), *more, "--auto-resume"]


class Campaign:
    """One kind of training, in a folder of its own."""

    def __init__(self, kind: str, folder: Path, progress: Progress) -> None:
        self.kind, self.folder, self.progress = kind, folder, progress
        self.data = write_boxes(folder) if kind.startswith("detect") else []
        if not self.data:
            write_class_folders(folder / "train", 8)
            write_class_folders(folder / "val", 2)
        self.straight, self.begun = folder / "straight", folder / "begun"
        since = time.monotonic()
        done = run(kind, self.words(self.straight), folder / "said")
        self.seconds = time.monotonic() - since
        assert done.status == 0, done.stderr
        assert run(kind, self.words(self.begun), folder / "said", in_step(5)).status == 143
        self.rows = {(kind, phase): Row() for phase in PHASES}
        self.count = 0

    def words(self, out: Path) -> list[Any]:
        return words_of(self.kind, self.folder, self.data, out)

    def blows(self, kills: int, signals: int, seed: int) -> Iterator[list[Blow]]:
        """The runs to be made, each with the blows that fall on it, all in one phase."""
        chance = random.Random(f"{seed} {self.kind} kills")
        others = [phase for phase in PHASES if phase != "saving"]
        by_phase: dict[str, list[Blow]] = {phase: [] for phase in PHASES}
        for number in range(kills):
            phase = "saving" if number % 2 == 0 else others[number // 2 % len(others)]
            by_phase[phase].append(self._blow(phase, signal.SIGKILL, chance))
        chance = random.Random(f"{seed} {self.kind} signals")
        first = signals * KINDS.index(self.kind)
        for number in range(first, first + signals):
            phase = PHASES[number % len(PHASES)]
            which = SIGNALS[(number + number // len(PHASES)) % len(SIGNALS)]
            by_phase[phase].append(self._blow(phase, which, chance))
        for blows in by_phase.values():
            while blows:
                size = chance.randint(1, 3)
                yield blows[:size]
                del blows[:size]

    def _blow(self, phase: str, number: int, chance: random.Random) -> Blow:
        group = number != signal.SIGKILL or chance.random() < 0.7
        if phase == "any moment":
            return Blow(phase, number, part=chance.random())
        places = {"set-up": (LOCK, BUILDING[self.kind]), "step": (STEP,), "evaluation": (EVALUATION[self.kind],)}
        places |= {"data wait": (READER if self.data == [] else MAPPER,), "saving": WRITING}
        place, call = chance.choice(places[phase]), chance.randint(1, CALLS[phase])
        place = RENAME if place == LINK and self.data else place
        return Blow(phase, number, place, call, group or phase == "data wait", chance.random())

    def go(self, kills: int, signals: int, seed: int) -> None:
        """Make all runs."""
        waiting = list(self.blows(kills, signals, seed))
        chance = random.Random(seed)
        while waiting:
            blows = waiting.pop(0)
            self.count += 1
            out = self.folder / f"run{self.count}"
            row = self.rows[self.kind, blows[0].phase]
            if blows[0].phase == "set-up" and chance.random() < 0.5:
                shutil.copytree(self.begun, out)
            missed = [blow for blow in blows if not self.disturb(out, blow, row)]
            self.finish(out, row, blows)
            if missed:  # the run was through before: on another one, sooner
                waiting.append([replace(blow, call=max(1, blow.call // 2), part=blow.part / 2) for blow in missed])

    def disturb(self, out: Path, blow: Blow, row: Row) -> bool:
        """Start, or go on with, a run, and stop it; False where it was through before."""
        note = self.folder / "note"
        note.unlink(missing_ok=True)
        before = reached(out)
        running = start(self.kind, self.words(out), self.folder / "said", blow.patch(note))
        if blow.place[0] == "":
            running.process.join(blow.part * self.seconds)
            if running.process.exitcode is None:
                _write(str(note), "blow 0")
                os.killpg(running.process.pid or 0, blow.number)
        done = running.wait()
        lines = note.read_text().splitlines() if note.is_file() else []
        sent = [line for line in lines if line.startswith("blow")]
        if not sent:
            if done.status:
                self.progress.fault(f"{self.kind} {blow}: exit status {done.status}: {done.stderr[-500:]}")
            return False
        steps = max([before, *(int(line.split()[1]) for line in lines if line.startswith("step"))])
        self._look(out, blow, done, steps - reached(out), row)
        row.with_workers += sent[0] == "blow 1"
        return True

    def _look(self, out: Path, blow: Blow, done: Ended, lost: int, row: Row) -> None:
        """What is left in the folder, and what was said."""
        name = signal.Signals(blow.number).name
        where = f"{self.kind} {blow.phase} {name} before call {blow.call} of {blow.place[1] or 'the clock'}"
        killed = blow.number == signal.SIGKILL
        for path in out.glob("*.pth"):
            try:
                read_weight_file(str(path))
            except InputError as error:
                row.unreadable += 1
                self.progress.fault(f"{where}: {error}")
        expected = {-signal.SIGKILL} if killed else {exit_status(blow.number)}
        if blow.phase == "any moment":  # also before the tool listens
            expected |= {-blow.number}
        if (out / FINAL).is_file():  # it came after the last step
            expected |= {0}
        if done.status not in expected or (not killed and "Traceback" in done.stderr):
            self.progress.fault(f"{where}: exit status {done.status}: {done.stderr[-1500:]}")
        if lost > (PERIOD if killed else 1):
            self.progress.fault(f"{where}: {lost} steps lost: {done.stderr[-1500:]}")
        if killed:
            row.kills, row.writing = row.kills + 1, row.writing + (blow.phase == "saving")
            row.lost_by_kill = max(row.lost_by_kill, lost)
        else:
            row.signals, row.lost_by_signal = row.signals + 1, max(row.lost_by_signal, lost)
            row.seconds_to_save = max(row.seconds_to_save, round(self._seconds_to_save(out), 2))
        self.progress.add(f"{where}: exit status {done.status}, {lost} steps lost")

    def _seconds_to_save(self, out: Path) -> float:
        """From the signal to the checkpoint's name; 0 where there was nothing to save."""
        tag, note = out / "last_checkpoint", self.folder / "note"
        return max(0.0, tag.stat().st_mtime - note.stat().st_mtime) if tag.is_file() else 0.0

    def finish(self, out: Path, row: Row, blows: list[Blow]) -> None:
        """Go on to the end, and compare."""
        done = run(self.kind, self.words(out), self.folder / "said")
        if done.status:
            self.progress.fault(f"{self.kind} {blows}: cannot go on: {done.stderr[-1500:]}")
            return
        row.runs += 1
        for text in compare(out, self.straight, row):
            self.progress.fault(f"{self.kind} {blows}: {text}")
        shutil.rmtree(out)


def reached(out: Path) -> int:
    """Steps of the checkpoint from which a run would go on; 0 for none."""
    files = Checkpoints(str(out)).candidates()
    if not files:
        return 0
    state = read_weight_file(str(files[0]))
    if "iteration" not in state:  # the weights at the end of a plain training
        return int(read_weight_file(str(out / CHECKPOINT))["iteration"])
    return int(state["iteration"]) + ("trainer" in state)


def same(a: Any, b: Any) -> bool:
    """Equality of two values of a checkpoint; NaN is NaN."""
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b or (a != a and b != b)


def names(out: Path) -> set[str]:
    """All in a folder, but TensorBoard's files, of which each start has its own."""
    return {path.name for path in out.iterdir() if not path.name.startswith("events")}


def compare(out: Path, straight: Path, row: Row) -> Iterator[str]:
    """Count what differs between a run and a straight one, and say it."""
    extra = {name for name in names(out) - names(straight) if not NUMBERED.fullmatch(name.replace("_ema", ""))}
    row.strays += len(extra)
    if extra or names(straight) - names(out):
        yield f"stray {sorted(extra)}, missing {sorted(names(straight) - names(out))}"
    for file in sorted(straight.glob("*.pth")):
        if file.name == PREVIOUS:
            continue
        a, b = (flat(torch.load(folder / file.name, weights_only=True)) for folder in (out, straight))
        sizes = {key: value.numel() if isinstance(value, torch.Tensor) else 1 for key, value in (b | a).items()}
        different = [key for key in sizes if key not in a or key not in b or not same(a[key], b[key])]
        row.compared += sum(sizes.values())
        row.equal += sum(sizes.values()) - sum(sizes[key] for key in different)
        if different:
            yield f"{file.name}: {len(different)} differ: {different[:5]}"
    ours, theirs = metrics(out), metrics(straight)
    lines = [(line["iteration"], *sorted(line)) for line in ours]
    row.duplicates += len(lines) - len(set(lines))
    values = [sum(map(len, lines)) for lines in (theirs, ours)]
    row.compared += values[0]
    row.equal += sum(len(a) for a, b in zip(ours, theirs, strict=False) if a == b)
    if ours != theirs:
        pairs = zip(ours, theirs, strict=False)
        different = sorted({key for a, b in pairs for key in a | b if a.get(key) != b.get(key)})
        yield f"metrics.json: {len(ours)} lines, not {len(theirs)}, or other values: {different[:5]}"


def main() -> None:
    """Run the campaigns one after the other and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="over all kinds")
    parser.add_argument("--signals", type=int, default=60, help="over all kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--two-processes", action="store_true", help="those of two processes")
    parser.add_argument("--rounds", type=int, default=1, help="of --two-processes")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wrong = (in_two if args.two_processes else in_one)(args, Path(folder))
    print("\n".join(["", *wrong, f"{len(wrong)} faults"]))
    sys.exit(bool(wrong))


def in_two(args: argparse.Namespace, folder: Path) -> list[str]:
    """Trainings of two processes; what was wrong."""

    def compared(out: Path, straight: Path) -> tuple[list[str], str]:
        row = Row()
        faults = list(compare(out, straight, row))
        return faults, f"{row.strays}, {row.duplicates}, {row.compared}, {row.equal}"

    return campaign(folder, [kind for kind in args.kinds if kind in SCRIPTS], args.rounds, args.seed, compared)


def in_one(args: argparse.Namespace, folder: Path) -> list[str]:
    """Trainings of one process; what was wrong."""
    kills, signals = args.kills // len(KINDS), args.signals // len(KINDS)
    progress = Progress((kills + signals) * len(args.kinds))
    rows: dict[tuple[str, str], Row] = {}
    for kind in args.kinds:
        place = folder / kind
        place.mkdir()
        campaign_of_one = Campaign(kind, place, progress)
        campaign_of_one.go(kills, signals, args.seed)
        rows |= campaign_of_one.rows
    print(table(rows))
    return progress.wrong


if __name__ == "__main__":
    main()
