"""Trainings in processes of their own, stopped or killed where a test wants it.

They are forked from a server that has imported what they need, and so start in a moment. Each leads a process group of
its own, to which signals can be sent as a scheduler does.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import torch

TOOLS = {
    "pretrain": "hiera_det.cli.pretrain_mae",
    "classify": "hiera_det.cli.train_classifier",
    "detect": "hiera_det.cli.train_detector",
    "detect-lazy": "hiera_det.cli.train_lazy",
    "torchvision": "hiera_det.cli.train_torchvision",
}
PRELOAD = ["hiera_det.tasks.pretrain.train", "hiera_det.tasks.classify.train", "hiera_det.tasks.pretrain.pictures"]
PRELOAD += ["hiera_det.adapters.torchvision.evaluation", "hiera_det.adapters.torchvision.saved"]
PRELOAD += ["hiera_det.d2.train.run", "hiera_det.d2.lazy.run", "matplotlib.backends.backend_agg"]
PRELOAD += ["torchvision.transforms.v2", "timm.data", "matplotlib.figure", "torch.utils.tensorboard", *TOOLS.values()]
#: Longer than any of them takes on a loaded machine.
PATIENCE = 120

Patch = Callable[[], None]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOAD)


class Ended(NamedTuple):
    """Exit status, negative for a signal's, and what was written to stderr."""

    status: int
    stderr: str


class Running(NamedTuple):
    """A training under way."""

    process: BaseProcess
    stderr: Path

    def wait(self) -> Ended:
        self.process.join(PATIENCE)
        if self.process.exitcode is None:
            os.killpg(self.process.pid or 0, signal.SIGKILL)
            raise AssertionError(f"still running: {self.stderr.read_text()}")
        return Ended(self.process.exitcode, self.stderr.read_text())


def start(
    tool: str, words: Sequence[Any], stderr: Path, patch: Patch | None = None, environment: Mapping[str, str] = {}
) -> Running:
    """Start a tool of `TOOLS` with these flags.

    Args:
        tool: its name.
        words: flags.
        stderr: a file that takes what it writes there.
        patch: called first, in the process; picklable.
        environment: variables set beforehand.
    """
    arguments = (tool, [str(word) for word in words], str(stderr), patch, dict(environment))
    process = _context.Process(target=_main, args=arguments)
    process.start()
    return Running(process, stderr)


def run(tool: str, words: Sequence[Any], stderr: Path, patch: Patch | None = None) -> Ended:
    """Start a tool and wait for its end."""
    return start(tool, words, stderr, patch).wait()


def run_two(tool: str, words: Sequence[Any], stderr: Path, patch: Patch | None = None) -> list[Ended]:
    """The same as two processes that torchrun would start."""
    return [rank.wait() for rank in start_ranks(tool, words, stderr, patch, 2)]


def start_ranks(
    tool: str, words: Sequence[Any], stderr: Path, patch: Patch | None = None, count: int = 2
) -> list[Running]:
    """Start as many processes as torchrun would; a single one by itself."""
    if count == 1:
        return [start(tool, words, stderr, patch)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        start(tool, words, stderr.with_suffix(f".{rank}"), patch, shared | {"RANK": rank, "LOCAL_RANK": rank})
        for rank in map(str, range(count))
    ]


def _main(tool: str, words: list[str], stderr: str, patch: Patch | None, environment: dict[str, str]) -> None:
    from hiera_det.errors import run_tool

    os.setpgid(0, 0)
    multiprocessing.set_start_method("fork", force=True)  # loader workers, as where the tool itself is run
    descriptor = os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(environment)
    torch.set_num_threads(1)
    if patch:
        patch()
    sys.argv = [tool, *words]
    run_tool(importlib.import_module(TOOLS[tool]).main)


# Patches: each sends a signal to the process's whole group, loader workers included, at one moment of the training.


def _send(number: int) -> None:
    os.killpg(0, number)
    time.sleep(0.05)


def _in_step(number: int, iteration: int) -> None:
    from hiera_det.engine.step import Step

    original = Step.__call__

    def call(self: Step, parts: Any, at: int = 0) -> Any:
        if at == iteration:
            _send(number)
        return original(self, parts, at)

    Step.__call__ = call  # type: ignore[method-assign]


def _before(number: int, module: str, name: str, call: int) -> None:
    owner: Any = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    original, calls = getattr(owner, last), 0

    def patched(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            _send(number)
        return original(*args, **kwargs)

    setattr(owner, last, patched)


def in_step(iteration: int, number: int = signal.SIGTERM) -> Patch:
    """In the forward pass of a step, counted from 1."""
    return partial(_in_step, int(number), iteration)


def before(module: str, name: str, call: int = 1, number: int = signal.SIGTERM) -> Patch:
    """Before some call of a function or method, in the process or a worker that makes it."""
    return partial(_before, int(number), module, name, call)
