"""How the benchmark measures: interleaved rounds, the machine's matrix rate, and differences of maps."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hiera_det.benchmark.catalogue import COMPILED, TRUNKS, shown
from hiera_det.benchmark.subjects import Step, TrunkSubject

__all__ = ["largest_differences", "matrix_rates", "median_ratio", "progress", "time_once", "time_rounds"]

#: Products per measurement of the matrix rate; the best counts.
RATE_ROUNDS = 3
_begun = [""]


def progress(text: str) -> None:
    """Show on stderr what runs now, over what was shown before; "" leaves the line empty.

    Where stderr is no terminal, a line says what begins: case, task and type.
    """
    if not sys.stderr.isatty():
        begun = text.partition(":")[0]
        if begun and begun != _begun[-1]:
            _begun[-1] = begun
            print(begun, file=sys.stderr, flush=True)
        return
    print(f"\r{text[:79]:<79}" + ("" if text else "\r"), end="", file=sys.stderr, flush=True)


def time_once(step: Step, device: str) -> float:
    """Seconds of one step."""
    if device == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        begin.record()
        step()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1000
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def time_rounds(steps: Mapping[str, Step], rounds: int, warmup: int, device: str, label: str) -> dict[str, list[float]]:
    """Seconds of each model's steps, one of each model per round, so that drift of the machine meets all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(warmup + rounds):
        for name, step in steps.items():
            progress(f"{label}: round {i + 1}/{warmup + rounds}, {shown(name)}")
            taken = time_once(step, device)
            if i >= warmup:
                seconds[name].append(taken)
    return seconds


def median_ratio(seconds: Sequence[float], baseline: Sequence[float]) -> float:
    """Median over the rounds of the time over the baseline's in the same round."""
    return statistics.median(mine / theirs for mine, theirs in zip(seconds, baseline, strict=True))


def matrix_rates(dtype: str, device: str, side: int) -> dict[str, float]:
    """GFLOP/s of a square matrix product, by the way that it is computed.

    ``mm`` is `torch.mm`. For float32 on a CPU ``conv2d`` is the same product as a 1x1 convolution, which runs in
    oneDNN instead of MKL: on AMD's processors that is about twice as fast, and the machine's rate is the faster one.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(side, side, generator=generator).to(device, getattr(torch, dtype)) for _ in range(2))
    out = torch.empty_like(a)
    tokens, weight = a[None].transpose(1, 2).unsqueeze(2), b[:, :, None, None]  # channels-last, [1, side, 1, side]
    ways: dict[str, Callable[[], Tensor]] = {"mm": lambda: torch.mm(a, b, out=out)}
    if device == "cpu" and dtype == "float32":
        ways["conv2d"] = lambda: F.conv2d(tokens, weight)
    with torch.inference_mode():
        best = {way: min(time_once(product, device) for _ in range(RATE_ROUNDS)) for way, product in ways.items()}
    return {way: 2 * side**3 / seconds / 1e9 for way, seconds in best.items()}


def largest_differences(subjects: Mapping[str, TrunkSubject], dtype: str) -> dict[str, float | None]:
    """Largest difference from our eager float32 maps of the same attention, over the map's largest value.

    None for other architectures.
    """
    references = {name: TRUNKS[name.removesuffix(COMPILED)].reference for name in subjects}
    differences: dict[str, float | None] = dict.fromkeys(subjects)
    for reference in sorted(set(references.values()) - {""}):
        ours = subjects[reference].maps("float32")
        for name in subjects:
            if references[name] == reference:
                theirs = subjects[name].maps(dtype)
                differences[name] = max(
                    ((a - b).abs().max() / a.abs().max()).item() for a, b in zip(ours, theirs, strict=True)
                )
    return differences
