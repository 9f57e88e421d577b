"""What must hold on a device before its times mean anything: equal numbers, the fused kernel, CUDA graphs."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from hiera_det.benchmark.peers import build_trunk

__all__ = ["check_device"]

#: Windows reach over the edge of such images.
SHAPE = (2, 3, 288, 320)
ONLY_ON_GPUS = "asked on GPUs only"


def check_device(size: str, device: str) -> dict[str, str]:
    """Check the windowed trunk of a size on a device; what was asked, and what was found.

    Differences are over the largest value of each map or gradient on the CPU, in float32 without TF32. Most gradients
    must agree to rounding; some need not: where two tokens of a q-pool are nearly equal, rounding decides which of them
    gets the gradient, and the position embedding's shows each: images changed by 2e-6 move it by up to 4e-2 in float64.
    """
    here = build_trunk("hiera_det_windowed", size, SHAPE[2:]).module
    images = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    there, moved = copy.deepcopy(here).to(device), images.to(device)
    with _without_tf32():
        maps, gradients = (
            _differences(get(here, images), get(there, moved)) for get in (lambda m, x: list(m(x).values()), _gradients)
        )
    run = _forward(there, device)
    run(moved)
    return {
        "maps beside the CPU's": f"{max(maps):.1e}",
        "gradients beside the CPU's": f"{statistics.median(gradients):.1e} at the median, {max(gradients):.1e} at most",
        "attention in bfloat16": _attention(run, moved, device),
        "waiting for the GPU": _waits(run, moved) if device == "cuda" else ONLY_ON_GPUS,
        "replayed CUDA graph beside eager": _replayed(run, moved) if device == "cuda" else ONLY_ON_GPUS,
    }


@contextmanager
def _without_tf32() -> Iterator[None]:
    products, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = products, convolutions


def _gradients(trunk: nn.Module, images: Tensor) -> list[Tensor]:
    loss = torch.stack([map_.square().mean() for map_ in trunk(images).values()]).sum()
    return list(torch.autograd.grad(loss, [parameter for parameter in trunk.parameters() if parameter.ndim > 1]))


def _differences(expected: list[Tensor], got: list[Tensor]) -> list[float]:
    """The largest of each pair, over the largest value."""
    pairs = zip(expected, got, strict=True)
    return [((a - b.cpu()).abs().max() / a.abs().max()).item() for a, b in pairs]


def _forward(trunk: nn.Module, device: str) -> Callable[[Tensor], list[Tensor]]:
    """As in prediction: without gradients, in bfloat16."""

    def run(images: Tensor) -> list[Tensor]:
        with torch.no_grad(), torch.autocast(device, torch.bfloat16):
            return list(trunk(images).values())

    return run


def _attention(run: Callable[[Tensor], list[Tensor]], images: Tensor, device: str) -> str:
    """Which of PyTorch's kernels computed it, and how often."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    with profile(activities=activities) as profiler:
        run(images)
    kernels = {event.key: event.count for event in profiler.key_averages() if "_scaled_dot_product_" in event.key}
    return ", ".join(f"{key.split('::')[-1]} x{count}" for key, count in sorted(kernels.items())) or "by products"


def _waits(run: Callable[[Tensor], list[Tensor]], images: Tensor) -> str:
    """Whether the host waits for the GPU inside a forward."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(images)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return "never"


def _replayed(run: Callable[[Tensor], list[Tensor]], images: Tensor) -> str:
    """The largest difference of a captured forward that is replayed on other images."""
    static, others = images.clone(), torch.randn_like(images)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        maps = run(static)
    static.copy_(others)
    graph.replay()
    return f"{max(_differences([x.float().cpu() for x in run(others)], [x.float() for x in maps])):.1e}"
