"""Each path of the trunk against PyTorch's own operations on this machine, for the table of modeling/fast/paths.py."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from hiera_det.benchmark.measure import median_ratio, progress, time_rounds
from hiera_det.engine.precision import bfloat16_factor
from hiera_det.modeling.fast.paths import Case, Path, forced, processor
from hiera_det.modeling.variants import get_variant, spread_global_blocks
from hiera_det.zoo import build_hiera

__all__ = ["compare_paths"]

#: Share of the time that a path must save.
WORTH = 0.05
PLAIN = "PyTorch's operations"
#: What runs without a compiler, in the types that some processor computes fast.
CASES = (
    *(Case(path, dtype) for path in Path if path is not Path.RESAMPLING for dtype in (torch.float32, torch.bfloat16)),
    Case(Path.PRODUCT, torch.float32, gradients=True),
)


def compare_paths(size: str, shapes: Sequence[tuple[int, int, int]], rounds: int, warmup: int, threads: int) -> str:
    """Time each path alone, in turn with none; a table, and the row that follows from it.

    bfloat16 is left out where float32 is known to be faster.

    Args:
        size: of the trunk, which attends in every way there is: in mask units, larger windows and globally.
        shapes: height, width and batch of images; a path must win on all of them.
        rounds: counted ones.
        warmup: rounds before them.
        threads: PyTorch's.
    """
    torch.set_num_threads(threads)
    blocks = spread_global_blocks(get_variant(size).depths)
    trunk = build_hiera(size, window_size=(8, 4, 14, 7), global_blocks=blocks).eval()
    cases = [case for case in CASES if case.dtype is not torch.bfloat16 or bfloat16_factor() == 1]
    ratios: dict[Case, list[float]] = {case: [] for case in cases}
    for height, width, batch in shapes:
        images = torch.randn(batch, 3, height, width)
        for dtype, gradients in dict.fromkeys((case.dtype, case.gradients) for case in cases):
            alike = [case for case in cases if (case.dtype, case.gradients) == (dtype, gradients)]
            steps = {case.path.name: partial(_step, trunk, images, case, True) for case in alike}
            steps[PLAIN] = partial(_step, trunk, images, alike[0], False)
            seconds = time_rounds(steps, rounds, warmup, "cpu", f"{height}x{width}x{batch} {dtype}")
            for case in alike:
                ratios[case].append(median_ratio(seconds[case.path.name], seconds[PLAIN]))
    progress("")
    return _report(ratios, f"{', '.join('x'.join(map(str, shape)) for shape in shapes)}, {threads} threads")


def _step(trunk: nn.Module, images: Tensor, case: Case, taken: bool) -> None:
    """A forward, and a backward pass where gradients are meant."""
    autocast = torch.autocast("cpu", case.dtype, enabled=case.dtype is not torch.float32)
    with forced([case] if taken else []), torch.set_grad_enabled(case.gradients), autocast:
        maps = trunk(images)
        if case.gradients:
            torch.autograd.backward([map_.square().mean() for map_ in maps.values()])


def _report(ratios: dict[Case, list[float]], setting: str) -> str:
    here = processor()
    lines = [f"{setting}; time over that of {PLAIN}:", "", "| path | type | gradients | ratios |", "|---|---|---|---|"]
    for case, values in ratios.items():
        shown = " ".join(f"{value:.2f}" for value in values)
        lines.append(f"| {case.path.value} | {case.dtype} | {'yes' if case.gradients else 'no'} | {shown} |")
    winners = [case for case, values in ratios.items() if max(values) <= 1 - WORTH]
    row = ", ".join(
        f"Case(Path.{case.path.name}, {case.dtype}{', gradients=True' if case.gradients else ''})" for case in winners
    )
    key = f'Processor("{here.vendor}", {here.family}, "{here.vectors}")'
    return "\n".join(
        [*lines, "", "The row for TABLE in hiera_det/modeling/fast/paths.py:", f"    {key}: frozenset([{row}]),"]
    )
