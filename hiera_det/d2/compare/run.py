"""A comparison's runs, one after the other, and what they come to."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import torch

from hiera_det.d2.compare.clock import SPENT, Clock
from hiera_det.d2.compare.plan import Comparison, Plan, silent
from hiera_det.d2.train.run import start
from hiera_det.engine.checkpoint import FolderLock
from hiera_det.engine.events import read_metrics
from hiera_det.engine.step import NonFiniteError
from hiera_det.engine.stop import StopRequested
from hiera_det.files import make_folder, write_atomically
from hiera_det.report.comparison import draw_comparison, format_comparison, told_run

__all__ = ["compare"]

#: Of metrics.json, by which runs are compared; of averaged weights too, where there are.
SCORES = ("bbox/AP", "bbox/AP50", "segm/AP", "segm/AP50")


def compare(comparison: Comparison, tell: Callable[[str], object] = print, dry_run: bool = False) -> dict[str, Any]:
    """Train what has not been trained yet, and write ``results.json``, ``results.md`` and ``curves.png``.

    A run that is finished is not run again; one that was stopped goes on from its checkpoint, or begins anew where it
    has none. How many steps a variant's seconds are is measured once, all variants in turn, so that all its seeds take
    the same number of them, and the schedule of the learning rate ends with the last.

    Args:
        comparison: of what.
        tell: is told what is done, a line each.
        dry_run: only measure, and tell what it would take; nothing is kept.

    Returns:
        what stands in ``results.json``.

    Raises:
        InputError: something cannot be used, or the output holds a comparison with other settings.
        StopRequested: a signal; the same call goes on.
    """
    with _threads(comparison.threads):
        plan = Plan(comparison)
        configs = plan.checked()
        if not dry_run:
            make_folder(comparison.output, "--output")
        plan.measure(configs, tell)
        _tell_plan(comparison, plan, tell)
        if dry_run:
            return plan.content
        with FolderLock(comparison.output, "--output"):
            plan.save()
            _run_all(comparison, plan, tell)
    return plan.content


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _tell_plan(comparison: Comparison, plan: Plan, tell: Callable[[str], object]) -> None:
    """What each variant's seconds are in steps, and all together."""
    total = 0.0
    for variant in comparison.variants:
        one = plan.content["variants"][variant.name]
        total += one["budget"] * len(comparison.seeds)
        tell(
            f"{variant.name}: {one['budget']:g} s are {one['steps']} steps of {one['step_seconds']:.3g} s, "
            f"{one['warm_up']} of warm-up; the schedule ends with them"
        )
    runs = len(comparison.variants) * len(comparison.seeds)
    tell(f"{runs} runs, {timedelta(seconds=round(total))} of training, evaluations besides")


def _run_all(comparison: Comparison, plan: Plan, tell: Callable[[str], object]) -> None:
    """Seed by seed, so that a comparison that is cut short has all variants."""
    runs = [(seed, variant.name) for seed, variant in product(comparison.seeds, comparison.variants)]
    open_runs = [(seed, name) for seed, name in runs if str(seed) not in plan.content["variants"][name]["runs"]]
    if len(open_runs) < len(runs):
        tell(f"{len(runs) - len(open_runs)} of {len(runs)} runs are finished already")
    began = time.monotonic()
    for done, (seed, name) in enumerate(open_runs, 1):
        found = _run(comparison, plan, name, seed, tell)
        plan.content["variants"][name]["runs"][str(seed)] = found
        plan.save()
        for path in () if comparison.keep_weights else (Path(comparison.output) / name / f"seed{seed}").rglob("*.pth"):
            path.unlink()
        _report(Path(comparison.output), plan.content)
        per_run = (time.monotonic() - began) / done
        left = timedelta(seconds=round(per_run * (len(open_runs) - done)))
        tell(f"[{len(runs) - len(open_runs) + done}/{len(runs)}] {name} seed {seed}: {told_run(found)}; ETA {left}")
    _report(Path(comparison.output), plan.content)


def _run(comparison: Comparison, plan: Plan, name: str, seed: int, tell: Callable[[str], object]) -> dict[str, Any]:
    """Train and evaluate one; what its metrics say, or by what it failed."""
    folder = Path(comparison.output) / name / f"seed{seed}"
    variant, steps = comparison.named(name), plan.steps(name)
    request = comparison.request(variant, steps, seed, os.fspath(folder), auto_resume=True)
    if folder.is_dir():
        there = any(folder.glob("model_*.pth"))
        tell(f"{name} seed {seed}: {'goes on from its checkpoint' if there else 'was killed early and begins anew'}")
    try:
        with silent():
            start(request, callbacks=[Clock()])
    except StopRequested:
        tell(f"{name} seed {seed}: stopped; the same command goes on")
        raise
    except NonFiniteError as error:
        return {"steps": steps, "failed": str(error), "points": []}
    return {"steps": steps, "points": _points(folder, steps)}


def _points(folder: Path, steps: int) -> list[dict[str, float]]:
    """The evaluations in ``metrics.json``: iterations, seconds, and scores in percent, 0 where nothing was found."""
    names = [prefix + score for prefix in ("", "ema/") for score in SCORES]
    points, spent = [], 0.0
    for line in read_metrics(folder / "metrics.json"):
        spent = line.get(SPENT, spent)  # the last evaluation has a line of its own
        if found := {name: line[name] or 0.0 for name in names if name in line}:
            points.append({"iteration": min(line["iteration"] + 1, steps), "seconds": spent, **found})
    return points


def _report(folder: Path, content: dict[str, Any]) -> None:
    """The table and the picture of what there is so far."""
    text = format_comparison(content) + "\n"
    write_atomically(folder / "results.md", lambda file: file.write(text.encode()))
    draw_comparison(content, folder / "curves.png")
