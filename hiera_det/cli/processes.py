"""Running a training in the processes that its flags ask for, and where its log goes."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from torch.multiprocessing.spawn import ProcessExitedException

from hiera_det.engine.launch import launch
from hiera_det.engine.processes import is_main_process
from hiera_det.errors import InputError
from hiera_det.files import make_folder

__all__ = ["chosen_device", "logged_to", "run_everywhere"]

#: Exit status of a process that a signal stopped after it saved.
STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT)


def chosen_device(flag: str | None) -> str:
    """The device that ``--device`` names, or the one that is there.

    Raises:
        InputError: PyTorch finds no GPU where one is asked for.
    """
    there = torch.cuda.is_available()
    if flag == "cuda" and not there:
        raise InputError("--device cuda: PyTorch finds no GPU; give --device cpu, or install PyTorch for your GPU")
    return flag or ("cuda" if there else "cpu")


@contextmanager
def logged_to(output: str) -> Iterator[None]:
    """Send the main process's log to stderr and into ``log.txt`` of a folder, which is made.

    Raises:
        InputError: the folder cannot be written.
    """
    make_folder(output, "--output")
    ours = logging.getLogger("hiera_det")
    level = ours.level
    ours.setLevel(logging.INFO if is_main_process() else logging.ERROR)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if is_main_process():
        handlers.append(logging.FileHandler(os.path.join(output, "log.txt"), encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        ours.addHandler(handler)
    try:
        yield
    finally:
        ours.setLevel(level)
        for handler in handlers:
            ours.removeHandler(handler)
            handler.close()


def run_everywhere(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> None:
    """Run a training in all processes that the flags, torchrun or srun ask for.

    Args:
        run: a function of the package; it returns 0, or the number of the signal that stopped it, with which this
            process then ends as shells have it: 128 more.
        args: flags of `add_training_flags`.
    """
    try:
        with _signals_to_children():
            launch(
                _run,
                (run, args),
                num_processes=args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                device=args.device,
            )
    except ProcessExitedException as error:
        status = error.exit_code if error.exit_code >= 0 else 128 - error.exit_code
        if status not in STOPPED:
            raise
        sys.exit(status)


@contextmanager
def _signals_to_children() -> Iterator[None]:
    """Pass SIGTERM on to the processes that this one starts, and wait for them; Ctrl-C reaches them by itself.

    Where training runs in this process, `hiera_det.engine.loop.Loop` listens in its place; before and after that,
    with no child, the signal does what it always does.
    """

    def forward(number: int, frame: FrameType | None) -> None:
        children = multiprocessing.active_children()
        for child in children:
            if number == signal.SIGTERM and child.pid:
                os.kill(child.pid, number)
        if not children:
            sys.exit(128 + number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> None:
    with logged_to(args.output):
        stopped = run(args)
    if stopped:
        sys.exit(128 + stopped)
