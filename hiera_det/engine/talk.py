"""What a training says while it runs: a bar on a terminal, plain lines elsewhere, a line for each evaluation, the end.

It goes to the terminal alone, by the logger ``hiera_det.say``; what is more is in the folder's ``log.txt``.
"""

from __future__ import annotations

import logging
import math
import shlex
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO
from weakref import WeakSet

from hiera_det.engine.best import EMA, Best, told_metric
from hiera_det.engine.callbacks import Callback
from hiera_det.engine.checkpoint import BEST, FINAL
from hiera_det.engine.progress import peak_memory
from hiera_det.engine.say import say

__all__ = ["Length", "Talk", "Terminal", "say", "told_memory", "told_metrics", "told_place"]


#: Steps over which speed and loss are averaged.
WINDOW = 20
#: Steps and seconds, whichever comes first, from one plain line to the next.
EVERY, SECONDS = 20, 60.0
#: Steps after which it is known what the whole will take.
KNOWN = 3
#: Epochs by which a place may miss a whole one and be told as that: a period in steps is rounded.
NEARLY = 0.25
#: Files of a run that people look at, with what they are.
PICTURES = [("report", "report.html"), ("drawn", "predictions.png"), ("drawn", "reconstructions.png")]
PICTURES += [("curves", "curves.png")]
_bars: WeakSet[Any] = WeakSet()  # that are drawn now
#: Metrics of the line of an evaluation, in its order.
TOLD = ("bbox/AP", "segm/AP", "keypoints/AP", "panoptic_seg/PQ", "sem_seg/mIoU", "top1", "top5", "val_loss")


class Terminal(logging.Handler):
    """Shows what is said, this project's warnings and others' errors, above a progress bar; the rest is for the file.

    Args:
        stream: the terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.stream = stream
        self.addFilter(self._is_for_people)

    def _is_for_people(self, record: logging.LogRecord) -> bool:
        if record.name == say.name:
            return True
        return record.levelno >= (logging.WARNING if record.name.startswith("hiera_det") else logging.ERROR)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, above the bar where there is one."""
        word = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        text = word + record.getMessage()
        for bar in list(_bars):
            bar.write(text, file=self.stream)
            return
        self.stream.write(text + "\n")
        self.stream.flush()


@dataclass(frozen=True)
class Length:
    """How long a training is.

    Attributes:
        iterations: steps of the optimizer.
        batch_size: images of a step.
        epoch: images of an epoch; 0 where unknown.
    """

    iterations: int
    batch_size: int
    epoch: int = 0

    @property
    def epochs(self) -> float:
        """Passes over the images; 0 where unknown."""
        return self.iterations * self.batch_size / self.epoch if self.epoch else 0.0

    @property
    def told_epochs(self) -> str:
        """As people say it: the last step may have images of an epoch that is not asked for."""
        whole = round(self.epochs)
        return str(whole) if abs(self.epochs - whole) * self.epoch < self.batch_size else f"{self.epochs:.1f}"


class Talk(Callback):
    """Tells of a training's steps, evaluations and end; a training calls it as any callback.

    Args:
        length: of the training.
        best: the best so far.
        folder: of the run.
        stream: where the bar is drawn.
        following: the command that comes next, in which ``{weights}`` and ``{folder}`` are put; "" for none.
    """

    def __init__(self, length: Length, best: Best, folder: str, stream: TextIO, following: str = "") -> None:
        self.length, self.best, self.folder, self.following = length, best, Path(folder), following
        self.stream = stream
        self._bar: Any = None
        self._first = 0  # the step that was taken first
        self._began = self._since = self._told = time.perf_counter()
        self._seconds: deque[float] = deque(maxlen=WINDOW)
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._score = ""

    def on_step(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Move the bar, or write a line where it is time."""
        now = time.perf_counter()
        self._first = self._first or iteration
        self._seconds.append(now - self._since)
        self._since = now
        loss = metrics.get("total_loss", metrics.get("loss", math.nan))
        self._losses.append(loss)
        if iteration == self._first + KNOWN - 1 and iteration < self.length.iterations:
            self._tell_expected(iteration)
        if self._draws():
            self._move(iteration)
        elif iteration == self._first or iteration % EVERY == 0 or now - self._told > SECONDS:
            self._told = now
            say.info(self._progress(iteration))

    def _tell_expected(self, iteration: int) -> None:
        """Time and memory, from the steps so far without the first, which fills caches."""
        per_step = sum(list(self._seconds)[1:]) / (KNOWN - 1)
        left = timedelta(seconds=round(per_step * (self.length.iterations - iteration)))
        say.info("expected    %s more, without evaluations; %s of memory", left, told_memory(peak_memory()))

    def _draws(self) -> bool:
        return bool(getattr(self.stream, "isatty", lambda: False)())

    def _move(self, iteration: int) -> None:
        if self._bar is None:
            from tqdm import tqdm

            form = "{percentage:3.0f}%|{bar:20}| {desc}"
            done = self._first - 1
            options = {"bar_format": form, "leave": False, "mininterval": 0.2, "dynamic_ncols": True}
            told = self._progress(iteration)
            self._bar = tqdm(total=self.length.iterations, initial=done, desc=told, file=self.stream, **options)
            _bars.add(self._bar)
        self._bar.set_description_str(self._progress(iteration), refresh=False)
        self._bar.update(iteration - self._bar.n)

    def _progress(self, iteration: int) -> str:
        """Where a training is, how fast, and how good."""
        length, per_step = self.length, sum(self._seconds) / len(self._seconds)
        parts = [f"iteration {iteration}/{length.iterations}"]
        if length.epoch:
            parts.append(f"epoch {iteration * length.batch_size / length.epoch:.1f}/{length.told_epochs}")
        parts.append(f"ETA {timedelta(seconds=round(per_step * (length.iterations - iteration)))}")
        parts.append(f"{length.batch_size / max(per_step, 1e-9):.3g} images/s")
        parts.append(told_memory(peak_memory()))
        parts.append(f"loss {sum(self._losses) / len(self._losses):.4g}")
        return "  ".join([*parts, self._score] if self._score else parts)

    def on_evaluation(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Tell its metrics, and the best so far."""
        words = [self._told_metric(name, metrics) for name in _told_names(metrics)]
        self._score = self._told_score(metrics)
        say.info("%s  %s", told_place(iteration, self.length), "  ".join(words))
        self._since = time.perf_counter()

    def _told_score(self, metrics: Mapping[str, float]) -> str:
        """Of the metric that the best is chosen by: last and best."""
        name = self.best.metric.removeprefix(EMA)
        if name not in metrics or self.best.value is None:
            return ""
        return f"{told_metric(name, metrics[name])} (best {told_metric(name, self.best.value, named=False)})"

    def _told_metric(self, name: str, metrics: Mapping[str, float]) -> str:
        told = told_metric(name, metrics[name])
        averaged = metrics.get(EMA + name)
        told += f", averaged {told_metric(name, averaged, named=False)}" if averaged is not None else ""
        if name != self.best.metric.removeprefix(EMA) or self.best.value is None:
            return told
        best = told_metric(name, self.best.value, named=False) + (" averaged" if self.best.averaged else "")
        return f"{told} (best {best}, {told_place(self.best.iteration, self.length, of_total=False)})"

    def on_end(self, iteration: int) -> None:
        """Tell where the files are, and what to do with them."""
        self.close()
        done = timedelta(seconds=round(time.perf_counter() - self._began))
        lines = [f"done in {done}: {told_place(iteration, self.length, of_total=False)}"]
        weights = self.folder / FINAL
        if (self.folder / BEST).is_file() and self.best.value is not None:
            weights, plain = self.folder / BEST, self.best.metric.removeprefix(EMA)
            score = told_metric(plain, self.best.value) + (" of averaged weights" if self.best.averaged else "")
            at = told_place(self.best.iteration, self.length, of_total=False)
            lines.append(f"best    {weights}: {score}, {at}")
        lines.append(f"last    {self.folder / FINAL}")
        for word, name in PICTURES:
            lines += [f"{word:8}{self.folder / name}"] if (self.folder / name).is_file() else []
        places = {"weights": shlex.quote(str(weights)), "folder": shlex.quote(str(self.folder))}
        lines += [f"next    {self.following.format(**places)}"] if self.following else []
        say.info("\n".join(lines))

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            _bars.discard(self._bar)
            self._bar.close()
            self._bar = None


def told_metrics(metrics: Mapping[str, float]) -> str:
    """The usual ones in a line."""
    return "  ".join(told_metric(name, metrics[name]) for name in _told_names(metrics)) or "nothing was measured"


def _told_names(metrics: Mapping[str, float]) -> list[str]:
    """Those of the line of an evaluation: the usual ones, perhaps with a data set's name before them."""
    plain = [name for name in metrics if not name.startswith(EMA)]
    return [name for told in TOLD for name in plain if name == told or name.endswith(f"/{told}")]


def told_place(iteration: int, length: Length, of_total: bool = True) -> str:
    """``epoch 12/50``, with a tenth where it is no whole one; the iteration where epochs are unknown."""
    epoch = iteration * length.batch_size / length.epoch if length.epoch else 0.0
    is_whole = abs(epoch - round(epoch)) < NEARLY
    if not epoch:
        return f"iteration {iteration}" + (f"/{length.iterations}" if of_total else "")
    word = f"{round(epoch)}" if is_whole and round(epoch) else f"{epoch:.1f}"
    return f"epoch {word}" + (f"/{length.told_epochs}" if of_total else "")


def told_memory(mib: float) -> str:
    """Memory in the unit that reads best."""
    return f"{mib / 1024:.1f} GB" if mib >= 1024 else f"{mib:.0f} MB"
