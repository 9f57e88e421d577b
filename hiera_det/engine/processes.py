"""What a process needs to know of the others; all of it works in a single one too."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from hiera_det.errors import InputError

__all__ = [
    "any_process",
    "check_device",
    "default_device",
    "from_main",
    "gathered",
    "is_main_process",
    "local_process_count",
    "process_count",
    "process_device",
    "process_rank",
    "sum_over_processes",
]

Value = TypeVar("Value")


def default_device() -> str:
    """The device where none is named."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(device: str, word: str = "--device") -> None:
    """Refuse a device that is none, or a GPU that is not there.

    Raises:
        InputError: the word and what to do.
    """
    if device not in ("cuda", "cpu"):
        raise InputError(f"{word} {device}: choose cuda or cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(f"{word} cuda: PyTorch finds no GPU; give cpu, or install PyTorch for your GPU")


def process_count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_process_count() -> int:
    """How many of them share this machine; `hiera_det.engine.launch` and torchrun say so in the environment."""
    text = os.environ.get("LOCAL_WORLD_SIZE", "")
    return int(text) if dist.is_initialized() and text.isdecimal() else process_count()


def process_rank() -> int:
    """This one's number among them."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main_process() -> bool:
    """Whether this is the one that writes files and logs."""
    return process_rank() == 0


def process_device(device: str) -> torch.device:
    """The device of this process: on GPUs the one that `hiera_det.engine.launch` has chosen."""
    if device == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(device)


def any_process(said: bool, device: torch.device) -> bool:
    """Whether some process says so, the same answer in all, who must all ask."""
    return bool(sum_over_processes(torch.tensor([float(said)], device=device)).item()) if process_count() > 1 else said


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of every process's values, in all of them."""
    if process_count() > 1:
        dist.all_reduce(values)
    return values


def gathered(value: Value) -> list[Value]:
    """Every process's value, which can be pickled, by rank, in all of them."""
    if process_count() == 1:
        return [value]
    values: list[Any] = [None] * process_count()
    dist.all_gather_object(values, value)
    return values


def from_main(compute: Callable[[], Value]) -> Value:
    """What the first process alone computes, which can be pickled, in all of them."""
    if process_count() == 1:
        return compute()
    values: list[Any] = [compute() if is_main_process() else None]
    dist.broadcast_object_list(values, 0)
    return values[0]
