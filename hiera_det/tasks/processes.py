"""A plain training in as many processes as it is to have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hiera_det.engine.launch import TIMEOUT, launch
from hiera_det.engine.stop import StopRequested
from hiera_det.errors import InputError
from hiera_det.tasks.settings import TaskSettings
from hiera_det.tasks.training import is_resumed

__all__ = ["train_everywhere"]

Settings = TypeVar("Settings", bound=TaskSettings)


def train_everywhere(
    train: Callable[..., int],
    check: Callable[[Settings], object],
    settings: Settings,
    callbacks: Sequence[object] = (),
    *,
    num_gpus: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    timeout: float = TIMEOUT,
) -> None:
    """Run a training in all processes that are asked for, or that torchrun or srun has started.

    Args:
        train: such as `hiera_det.tasks.pretrain.train.pretrain`.
        check: called before several processes are started, so that a mistake is said once.
        settings: for both.
        callbacks: for ``train``.
        num_gpus: see `hiera_det.engine.launch.launch`, as the others.
        num_machines: likewise.
        machine_rank: likewise.
        dist_url: likewise.
        timeout: likewise.

    Raises:
        InputError: see ``train``; or the numbers of processes cannot be.
        StopRequested: a signal stopped it, after a checkpoint.
    """
    for flag, number in (("--num-gpus", num_gpus), ("--num-machines", num_machines)):
        if number < 1:
            raise InputError(f"{flag} {number}: must be at least 1")
    if num_gpus > 1:
        is_resumed(settings)
        check(settings)
    launch(
        _run,
        (train, settings, callbacks),
        num_processes=num_gpus,
        num_machines=num_machines,
        machine_rank=machine_rank,
        dist_url=dist_url,
        device=settings.device,
        timeout=timeout,
    )


def _run(train: Callable[..., int], settings: Any, callbacks: Sequence[object]) -> None:
    if stopped := train(settings, callbacks):
        raise StopRequested(stopped)
