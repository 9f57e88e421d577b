"""Failures of the machine, told in one line: no memory left, a loader worker or another process gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hiera_det.engine.processes import process_count
from hiera_det.errors import InputError

__all__ = ["explained", "is_out_of_memory"]

#: What PyTorch says in a plain RuntimeError where memory is short.
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory", "CUDA OOM")
GOES_ON = "; the last checkpoint is whole, --resume goes on"
#: What gloo and NCCL say when another process has gone.
LOST_PEER = ("closed by peer", "Connection reset", "Broken pipe", "NCCL", "Gloo", "gloo")


@contextmanager
def explained(doing: str, save_memory: str, resumable: bool = True) -> Iterator[None]:
    """Turn failures of the machine into one line; what is our own mistake keeps its traceback.

    Args:
        doing: what was running, with its sizes.
        save_memory: what to change where memory is short.
        resumable: there are checkpoints to go on from.

    Raises:
        InputError: in place of the failure.
    """
    try:
        yield
    except InputError:
        raise
    except (MemoryError, RuntimeError, OSError, EOFError) as error:
        line = _line(error, doing, save_memory + (GOES_ON if resumable else ""))
        if line is None:
            raise
        raise InputError(line) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(said in str(error) for said in NO_MEMORY)


def _line(error: BaseException, doing: str, save_memory: str) -> str | None:
    """What to say of an error; None for one that is not the machine's."""
    text = str(error).strip()
    first = text.splitlines()[0].partition(". ")[0] if text else type(error).__name__  # gloo goes on at length
    if is_out_of_memory(error):
        return f"out of memory in {doing} ({first}); {save_memory}"
    if "DataLoader worker" in text or (isinstance(error, ConnectionError | EOFError) and process_count() == 1):
        return (
            f"a process that reads images is gone ({first}), maybe for its memory: use fewer workers; --resume goes on"
        )
    if process_count() > 1 and ("timed out" in text or "Timed out" in text):
        return (
            f"another process of the training has not answered in time ({first}): it hangs or is gone; --timeout "
            "MINUTES waits longer; --resume goes on from the last checkpoint"
        )
    if process_count() > 1 and any(said in text for said in LOST_PEER):
        return f"another process of the training is gone ({first}); --resume goes on from the last checkpoint"
    return None
