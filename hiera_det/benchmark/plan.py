"""What training on many GPUs comes to, on paper: from a counted step, nothing measured."""

from __future__ import annotations

from collections.abc import Sequence

from hiera_det.benchmark.catalogue import GPUS, TRUNKS, Gpu
from hiera_det.benchmark.traffic import Traffic

__all__ = ["format_plan"]

#: GPUs of one machine.
MACHINE = 8
#: Seconds of a core for a training image: the mapper of mask_rcnn_hiera_b.yaml on a JPEG of 640x480 with 7 polygons, on
#: a core of an AMD EPYC Zen 5; others take up to twice as long.
CORE_SECONDS = 0.012
#: Numbers are sent in float32, which weights and gradients have in mixed precision too. DDP sends each gradient twice,
#: to be added and to be spread; FSDP2 gathers the weights forward and backward, and adds the gradients.
SENDS = {"ddp": 2, "fsdp": 3}
#: Share of a step in which sending can hide: from the first gradient to the last.
BACKWARD = 2 / 3


def format_plan(counts: Sequence[Traffic], gpu: str, processes: Sequence[int] = (8, 64)) -> str:
    """A Markdown table over the training steps of ours among counts; "" without any."""
    rows = [
        f"| {count.model} | {'x'.join(map(str, count.case))} | {number} | {parallel} "
        f"| {_sent(count, number, parallel) / 1e9:.2f} | {_cores(count, GPUS[gpu])} "
        f"| {_efficiency(count, GPUS[gpu], number, parallel):.0%} |"
        for count in counts
        if count.kept and (count.model not in TRUNKS or TRUNKS[count.model].package == "hiera_det")
        for number in processes
        for parallel in SENDS
    ]
    if not rows:
        return ""
    head = [
        f"A plan on paper, nothing of it measured: {gpu}, a counted step as roofline, sending hidden behind two thirds "
        f"of it, {CORE_SECONDS * 1e3:.0f} ms of a core for an image.",
        "",
        "| model | image, batch per GPU | GPUs | parallel | GB sent per step | cores per machine of 8 | efficiency |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *rows])


def _sent(count: Traffic, processes: int, parallel: str) -> float:
    """Bytes that a rank sends in a step, by rings."""
    return SENDS[parallel] * (processes - 1) / processes * 4 * count.parameters


def _cores(count: Traffic, gpu: Gpu) -> int:
    """Cores of a machine's loaders that keep its GPUs fed."""
    return round(MACHINE * count.case[2] * CORE_SECONDS / count.seconds(gpu) + 0.5)


def _efficiency(count: Traffic, gpu: Gpu, processes: int, parallel: str) -> float:
    """Of the rate of as many single GPUs."""
    step = count.seconds(gpu)
    sending = _sent(count, processes, parallel) / (gpu.inside if processes <= MACHINE else gpu.outside)
    return step / (step + max(0.0, sending - BACKWARD * step))
