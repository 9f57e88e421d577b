"""A benchmark: which models run, all of them in turn, and what is reported of each."""

from __future__ import annotations

import importlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch

from hiera_det.benchmark.catalogue import COMPILED, TRUNKS, baseline_of, shown, with_references
from hiera_det.benchmark.checks import check_device
from hiera_det.benchmark.measure import largest_differences, matrix_rates, median_ratio, progress, time_rounds
from hiera_det.benchmark.memory import cpu_peak, cuda_peak
from hiera_det.benchmark.report import Report, Row, check_writable, write_report
from hiera_det.benchmark.subjects import Setting, Step, Subject, TrunkSubject, build_subject
from hiera_det.engine.environment import machine_name

__all__ = ["Bench", "Protocol", "trunks_to_run"]


@dataclass(frozen=True)
class Protocol:
    """How all models are measured.

    Attributes:
        device: ``cpu`` or ``cuda``.
        threads: PyTorch's.
        rounds: counted rounds of a case.
        warmup: rounds before them.
        dtypes: of `hiera_det.benchmark.catalogue.DTYPES`.
        matrix_side: of the matrix product that gives the machine's rate; 0 for none.
        memory: measure the peak memory.
    """

    device: str = "cpu"
    threads: int = 2
    rounds: int = 7
    warmup: int = 2
    dtypes: tuple[str, ...] = ("float32",)
    matrix_side: int = 4096
    memory: bool = True


def trunks_to_run(models: Sequence[str], compiled: bool) -> list[str]:
    """The trunks asked for and those they are compared with; what is not installed is named on stderr."""
    names = []
    for name in with_references(list(TRUNKS) if "all" in models else models):
        try:
            importlib.import_module(TRUNKS[name].package)
        except ImportError:
            print(f"{name}: not installed, left out (pip install -e '.[peers]')", file=sys.stderr)
            continue
        names.append(name)
        if compiled and TRUNKS[name].package == "hiera_det":
            names.append(name + COMPILED)
    return names


class Bench:
    """Measures, and keeps what it found.

    Args:
        size: Hiera's.
        protocol: how.
        json: written anew after each measurement, so that a run that is stopped keeps what it has.
    """

    def __init__(self, size: str, protocol: Protocol, json: Path | None = None) -> None:
        if json:
            check_writable(json)
        torch.set_num_threads(protocol.threads)
        self.size, self.protocol, self.json = size, protocol, json
        machine = machine_name(protocol.device)
        self.report = Report(machine, protocol.device, protocol.threads, torch.__version__, size, protocol.rounds)

    def detectors_to_run(self, config_files: Sequence[str], compiled: bool) -> list[str]:
        """The detectors asked for, with ours compiled where that is wanted of all, and detectron2's on ResNet-50.

        Raises:
            InputError: one of them cannot be built.
        """
        from hiera_det.d2.benchmark.detectors import ZOO_CONFIG, load_detector_config
        from hiera_det.d2.config.model_keys import is_hiera

        names = []
        for name in [*config_files, ZOO_CONFIG]:
            cfg = load_detector_config(name.removesuffix(COMPILED), self.protocol.device, name.endswith(COMPILED))
            names.append(name)
            if compiled and is_hiera(cfg.MODEL.BACKBONE.NAME) and not name.endswith(COMPILED):
                names.append(name + COMPILED)
        return names

    def check(self) -> None:
        """Ask what must hold on the device before its times mean anything."""
        progress("checking the device")
        self.report.checks = check_device(self.size, self.protocol.device)

    def run(self, names: Sequence[str], tasks: Sequence[str], case: tuple[int, int, int]) -> None:
        """Build models once for images of a height and width and a batch, and measure all tasks and types with them."""
        if not tasks:
            return
        setting = Setting(self.size, *case, self.protocol.device, self.protocol.threads)
        subjects: dict[str, Subject] = {}
        for name in dict.fromkeys(names):
            progress(f"{setting}: building {shown(name)}")
            subjects[name] = build_subject(name, setting)
        for task, dtype in product(tasks, self.protocol.dtypes):
            self._measure(subjects, task, dtype, setting)
            if self.json:
                write_report(self.report, self.json)

    def _measure(self, subjects: Mapping[str, Subject], task: str, dtype: str, setting: Setting) -> None:
        """One row per model, and the machine's matrix rates before and after their rounds."""
        label = f"{setting} {task} {dtype}"
        progress(f"{label}: counting and comparing")
        gflop = {name: subject.count_gflop(task) for name, subject in subjects.items()}
        trunks = {name: subject for name, subject in subjects.items() if isinstance(subject, TrunkSubject)}
        differences = largest_differences(trunks, dtype)
        steps = {name: subject.step(task, dtype) for name, subject in subjects.items()}
        if self.protocol.device == "cuda":
            steps = which_fit(steps, label)
        before = self._matrix_rates(dtype, label)
        seconds = time_rounds(steps, self.protocol.rounds, self.protocol.warmup, self.protocol.device, label)
        after = self._matrix_rates(dtype, label)
        peaks = measure_peaks(steps, task, dtype, setting) if self.protocol.memory else {}
        progress("")
        for way, rate in before.items():
            self.report.rates.setdefault(f"{dtype} {way}", []).extend([rate, after[way]])
        for name in steps:
            baseline = baseline_of(name, list(steps)) if trunks else next(iter(steps))
            self.report.rows.append(
                Row(
                    height=setting.height,
                    width=setting.width,
                    batch=setting.batch,
                    task=task,
                    dtype=dtype,
                    model=shown(name),
                    baseline=shown(baseline),
                    median_ms=1000 * statistics.median(seconds[name]),
                    time_over_ours=median_ratio(seconds[name], seconds[baseline]),
                    peak_mib=peaks.get(name),
                    gflop=gflop[name],
                    matrix_rate=max([*before.values(), *after.values()], default=None),
                    difference=differences.get(name),
                )
            )

    def _matrix_rates(self, dtype: str, label: str) -> dict[str, float]:
        """The machine's rate, by the way that the product is computed, where it is wanted."""
        progress(f"{label}: the machine's matrix rate")
        side = self.protocol.matrix_side
        return matrix_rates(dtype, self.protocol.device, side) if side else {}


def which_fit(steps: Mapping[str, Step], label: str) -> dict[str, Step]:
    """Those of the steps for which the GPU has memory; the others are named on stderr."""
    fitting = {}
    for name, step in steps.items():
        try:
            step()
            fitting[name] = step
        except torch.OutOfMemoryError:
            print(f"\n{label}: {shown(name)} does not fit the GPU's memory, left out", file=sys.stderr)
        torch.cuda.empty_cache()
    return fitting


def measure_peaks(steps: Mapping[str, Step], task: str, dtype: str, setting: Setting) -> dict[str, float | None]:
    """Peak memory of each model's step; on a CPU none of compiled ones, whose compiler leaves its own pages about."""
    peaks: dict[str, float | None] = {}
    for name, step in steps.items():
        progress(f"{setting} {task} {dtype}: peak memory, {shown(name)}")
        if setting.device == "cuda":
            peaks[name] = cuda_peak(step)
        elif not name.endswith(COMPILED):
            peaks[name] = cpu_peak(name, task, dtype, setting)
    return peaks
