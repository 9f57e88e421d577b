"""The settings of a training, whatever is trained: what flags, YAML keys, LazyConfig nodes and Python all fill."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from hiera_det.engine.loggers import check_loggers
from hiera_det.engine.precision import check_precision
from hiera_det.engine.sharding import HAS_FSDP
from hiera_det.errors import InputError

__all__ = ["EMA_DECAY", "PARALLEL", "PYTHON_WORDS", "CommonSettings", "TrainSettings"]

#: The decay of averaged weights where a caller asks for an average and names none.
EMA_DECAY = 0.9998
#: Fields that have another word where a caller in Python names them.
PYTHON_WORDS = {"lr": "learning_rate", "workers": "num_workers", "ema_decay": "ema"}

#: Ways to have a model in several processes: a copy in each, or shared out among them.
PARALLEL = ("ddp", "fsdp")


@dataclass(frozen=True, kw_only=True)
class CommonSettings:
    """What every training has, under the same names and with the same defaults, whoever fills it.

    Attributes:
        accumulate: forwards and backwards per step, each of a part of a process's share, to save memory.
        seed: of all that is random.
        parallel: a model in several processes: ``ddp`` or ``fsdp``.
        compile: compile the model with torch.compile.
        clip_norm: largest norm of all gradients together; 0 for any.
        ema_decay: of an average of the weights, per step; 0 for none.
        log_period: steps from one line of the log to the next.
        skip_nonfinite: steps in a row that may be left out because a loss or gradient is not finite.
        checkpoint_minutes: most that pass without a checkpoint; 0 leaves it to the period.
        loggers: where lines of ``metrics.json`` go besides, see `hiera_det.engine.loggers`.
        patience: evaluations in a row without a better ``best`` that end the training; 0 for any number.
        words: the flag or key by which the user knows a field, for messages; empty for a user of Python.
    """

    accumulate: int = 1
    seed: int = 0
    parallel: str = "ddp"
    compile: bool = False
    clip_norm: float = 0.0
    ema_decay: float = 0.0
    log_period: int = 20
    skip_nonfinite: int = 0
    checkpoint_minutes: float = 10.0
    patience: int = 0
    loggers: Sequence[str] = ()
    words: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def word(self, name: str) -> str:
        """What the user calls a field."""
        return self.words.get(name, name)

    def refusal(self, name: str, problem: str) -> InputError:
        """The error that a field's value is."""
        value: Any = getattr(self, name)
        return InputError(f"{self.word(name)} {value}: {problem}")

    def check_counts(self, least: int, *names: str) -> None:
        """Refuse what is no whole number of at least ``least``."""
        for name in names:
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise self.refusal(name, f"must be a whole number of at least {least}")

    def check_amounts(self, *names: str) -> None:
        """Refuse what is no number of at least 0."""
        for name in names:
            if not 0 <= getattr(self, name) < math.inf:
                raise self.refusal(name, "must be a number of at least 0")


@dataclass(frozen=True)
class TrainSettings(CommonSettings):
    """How a model is trained, once it, its data and its optimizer are there; checked when it is made.

    Attributes besides the common ones:
        output: folder for checkpoints and metrics.
        iterations: steps of the optimizer in all.
        batch_size: images per step, of all processes together.
        processes: how many processes share the batch.
        device: ``cpu`` or ``cuda``.
        precision: a key of `hiera_det.engine.precision.PRECISIONS`.
        workers: processes that read images, for each that trains.
        checkpoint_period: steps from one checkpoint to the next.
        eval_period: steps from one evaluation to the next; 0 for the end only.
        keep: newest checkpoints that are kept; 0 for all.
        best: metric whose best checkpoint is kept, such as ``top1``, or ``auto``; "" for none.

    Raises:
        InputError: a value that cannot be used, by the user's word.
    """

    output: str
    iterations: int
    batch_size: int
    processes: int = 1
    device: str = "cpu"
    precision: str = "float32"
    workers: int = 0
    checkpoint_period: int = 1
    eval_period: int = 0
    keep: int = 0
    best: str = ""

    def __post_init__(self) -> None:
        self.check_counts(1, "iterations", "batch_size", "accumulate", "log_period", "checkpoint_period")
        self.check_counts(0, "workers", "eval_period", "keep", "skip_nonfinite", "patience")
        if self.patience and not self.best:
            raise self.refusal("patience", f"waits for a better {self.word('best')}, which names no metric")
        parts = self.processes * self.accumulate
        if self.batch_size % parts:
            by = f"the processes times {self.word('accumulate')}, {self.processes} x {self.accumulate}"
            raise self.refusal("batch_size", f"counts the images of all processes and must be a multiple of {by}")
        self.check_amounts("clip_norm", "checkpoint_minutes")
        if not 0 <= self.ema_decay < 1:
            raise self.refusal("ema_decay", "give a decay below 1, such as 0.9998, or 0 for no average")
        check_loggers(self.loggers, self.word("loggers"))
        self._check_machine()

    def _check_machine(self) -> None:
        """Refuse what this PyTorch or this device cannot do."""
        check_precision(self.precision, self.device, self.word("precision"))
        if self.parallel not in PARALLEL:
            raise self.refusal("parallel", f"choose {' or '.join(PARALLEL)}")
        if self.parallel == "fsdp" and not HAS_FSDP:
            raise self.refusal("parallel", f"needs PyTorch 2.6 or newer, this is {torch.__version__}; choose ddp")
        if self.parallel == "fsdp" and self.precision == "float16":
            raise self.refusal("parallel", f"{self.word('precision')} float16 is for ddp; choose bfloat16")

    @property
    def part(self) -> int:
        """Images of one forward in one process."""
        return self.batch_size // (self.processes * self.accumulate)
