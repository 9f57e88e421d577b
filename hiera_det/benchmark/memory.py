"""Peak memory for the benchmark: what one step adds to the built model and its inputs.

On a CPU that is the growth of the process's resident memory to its peak, in a fresh process for each model, which has
no pages left from another; on a GPU what PyTorch has allocated there.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import re
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from hiera_det.benchmark.subjects import Setting, Step, build_subject

__all__ = ["cpu_peak", "cuda_peak"]

STATUS = Path("/proc/self/status")


def cuda_peak(step: Step) -> float:
    """MiB that a step adds on the GPU."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def cpu_peak(name: str, task: str, dtype: str, setting: Setting) -> float | None:
    """MiB that a step adds in a process of its own; None where the system does not tell or ends the process."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, name, task, dtype, setting).result()
        except BrokenProcessPool:
            print(f"\n{name}: the process that measures its memory was ended, by the system?", file=sys.stderr)
            return None


def _measure(name: str, task: str, dtype: str, setting: Setting) -> float | None:
    """Runs in the fresh process."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(setting.threads)
    step = build_subject(name, setting).step(task, dtype)
    try:
        _return_freed_pages()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        before = _status_mib("VmRSS")
        step()
        return _status_mib("VmHWM") - before
    except (OSError, AttributeError):  # not Linux, or not glibc
        return None


def _return_freed_pages() -> None:
    """Give what building the model left free back to the system, so that the step is seen to take its own."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _status_mib(field: str) -> float:
    """One field of /proc/self/status in MiB."""
    match = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text())
    if match is None:
        raise OSError(f"{STATUS} has no {field}")
    return int(match.group(1)) / 1024
