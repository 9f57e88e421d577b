"""Time the trunk and the detector against their peers: one process, interleaved rounds, medians and ratios.

Each case runs every model in turn, round after round, so that a machine whose speed drifts slows all of them alike.
Hiera's implementations have the same random weights, and their maps are compared; swin_b and the like are what users
would pick instead. All four stage maps are asked for; ViT-B has one. Times are over ours of the same attention: global,
or windowed as in SAM 2 with its zero padding. Peers that are not installed are left out and named: pip install -e
'.[peers]'.

Tasks: forward, without gradients; train, forward and backward of the maps' mean squares; detector-inference, images
to pasted masks; detector-train, the step of tools/train_net.py with the optimizer's update. The detectors are
--config-files and detectron2's Mask R-CNN on ResNet-50. Among the former, vitdet-b is ViTDet's on ViT-B, for which
detectron2's main branch must be installed, and a config with +compile after it is that one with its trunk compiled, in
the rounds of --warmup, which are not counted. With random weights the number of detections differs from a trained
model's (hiera_det/benchmark/detectors.py says how it is set).

Peak memory is what one step adds to the built model and the optimizer's moments, on a CPU in a fresh process for each
model. GFLOP counts two for each multiply-add, attention included, and takes a trunk's training for three forwards; the
rate stands over that of a square matrix product, measured on the same machine in the same type before and after.

Examples:
    python tools/benchmark.py
    python tools/benchmark.py --size tiny --cases 224x224x8 --rounds 11 --json benchmark.json
    python tools/benchmark.py --models all --task forward train --dtype float32 bfloat16 --cases 512x512x1 800x1344x1
    python tools/benchmark.py --task detector-inference detector-train \
        --config-files configs/mask_rcnn_hiera_{t,b}_1x.yaml
    python tools/benchmark.py --device cuda --task detector-train detector-inference --dtype bfloat16 \
        --cases 1024x1024x1 --config-files configs/mask_rcnn_hiera_b.yaml configs/mask_rcnn_hiera_b.yaml+compile \
        vitdet-b --rounds 21 --warmup 5 --json detectors.json
    python tools/benchmark.py --table benchmark.json
    python tools/benchmark.py --flops configs/mask_rcnn_hiera_{b,bplus,l}.yaml
"""

from __future__ import annotations

import argparse
import importlib
import platform
import re
import statistics
import sys
import warnings
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import torch

from hiera_det.benchmark.detectors import ZOO_CONFIG, compiled_twins, load_detector_config, require_detectron2
from hiera_det.benchmark.measure import largest_differences, matrix_rates, median_ratio, progress, shown, time_rounds
from hiera_det.benchmark.memory import cpu_peak, cuda_peak
from hiera_det.benchmark.models import COMPILED, DEFAULT_MODELS, TRUNKS, baseline_of, with_references
from hiera_det.benchmark.report import Report, Row, check_writable, format_report, read_report, write_report
from hiera_det.benchmark.subjects import (
    DETECTOR_TASKS,
    DTYPES,
    TASKS,
    Setting,
    Step,
    Subject,
    TrunkSubject,
    build_subject,
)
from hiera_det.errors import InputError
from hiera_det.modeling.variants import get_variant

DEFAULT_CASES = ("224x224x4", "1024x1024x1")
DEFAULT_CONFIG = str(Path(__file__).resolve().parents[2] / "configs" / "mask_rcnn_hiera_b_1x.yaml")


def parse_case(text: str) -> tuple[int, int, int]:
    """``HxWxB`` to height, width and batch."""
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
    if not match:
        raise InputError(f"case {text!r}: write height x width x batch, for example 1024x1024x1")
    height, width, batch = (int(number) for number in match.groups())
    if height % 32 or width % 32 or not (height and width and batch):
        raise InputError(f"case {text!r}: height and width must be multiples of 32 and the batch at least 1")
    return height, width, batch


def check_words(flag: str, words: Sequence[str], known: Sequence[str]) -> None:
    """Refuse a word that the flag does not know."""
    for word in words:
        if word not in known:
            raise InputError(f"{flag} {word}: choose from {', '.join(known)}")


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse what cannot be measured, before anything is."""
    get_variant(args.size)
    check_words("--models", args.models, [*TRUNKS, "all"])
    check_words("--task", args.task, TASKS)
    check_words("--dtype", args.dtype, list(DTYPES))
    for flag, number, least in (
        ("--rounds", args.rounds, 1),
        ("--threads", args.threads, 1),
        ("--warmup", args.warmup, 0),
        ("--matrix-side", args.matrix_side, 0),
    ):
        if number < least:
            raise InputError(f"{flag} {number}: must be at least {least}")
    if not args.warmup and (args.compile or any(name.endswith(COMPILED) for name in args.config_files)):
        raise InputError("--warmup 0: compiled models need 1 or more, in which the compiler runs")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no GPU here; leave it out")
    if set(args.task) & set(DETECTOR_TASKS):
        require_detectron2()
        for name in [*args.config_files, ZOO_CONFIG]:
            load_detector_config(name, args.device)
    if args.json:
        check_writable(args.json)


def trunks_to_run(args: argparse.Namespace) -> list[str]:
    """The trunks asked for and those they are compared with; what is not installed is named on stderr."""
    names = []
    for name in with_references(list(TRUNKS) if "all" in args.models else args.models):
        try:
            importlib.import_module(TRUNKS[name].package)
        except ImportError:
            print(f"{name}: not installed, left out (pip install -e '.[peers]')", file=sys.stderr)
            continue
        names.append(name)
        if args.compile and TRUNKS[name].package == "hiera_det":
            names.append(name + COMPILED)
    return names


def detectors_to_run(args: argparse.Namespace) -> list[str]:
    """The detectors asked for, with ours compiled where that is wanted of all, and detectron2's on ResNet-50."""
    names = compiled_twins(args.config_files, args.device) if args.compile else args.config_files
    return [*names, ZOO_CONFIG]


def measure(
    subjects: Mapping[str, Subject], task: str, dtype: str, setting: Setting, args: argparse.Namespace
) -> tuple[list[Row], dict[str, list[float]]]:
    """One row per model, and the machine's matrix rates before and after their rounds."""
    label = f"{setting} {task} {dtype}"
    progress(f"{label}: counting and comparing")
    gflop = {name: subject.count_gflop(task) for name, subject in subjects.items()}
    trunks = {name: subject for name, subject in subjects.items() if isinstance(subject, TrunkSubject)}
    differences = largest_differences(trunks, dtype)
    steps = {name: subject.step(task, dtype) for name, subject in subjects.items()}
    seconds, rates = time_between_rates(steps, dtype, label, args)
    peaks = {} if args.no_memory else measure_peaks(steps, task, dtype, setting)
    progress("")
    rows = []
    for name in subjects:
        baseline = baseline_of(name, list(subjects)) if trunks else next(iter(subjects))
        rows.append(
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
                matrix_rate=max((rate for found in rates.values() for rate in found), default=None),
                difference=differences.get(name),
            )
        )
    return rows, rates


def time_between_rates(
    steps: Mapping[str, Step], dtype: str, label: str, args: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of each model's steps, and the machine's matrix rates before and after them where they are wanted."""

    def rates() -> dict[str, float]:
        progress(f"{label}: the machine's matrix rate")
        return matrix_rates(dtype, args.device, args.matrix_side) if args.matrix_side else {}

    before = rates()
    seconds = time_rounds(steps, args.rounds, args.warmup, args.device, label)
    after = rates()
    return seconds, {f"{dtype} {way}": [rate, after[way]] for way, rate in before.items()}


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


def run_models(
    names: Sequence[str], tasks: Sequence[str], setting: Setting, args: argparse.Namespace, report: Report
) -> None:
    """Build models once and measure all tasks and types with them."""
    subjects: dict[str, Subject] = {}
    for name in dict.fromkeys(names):
        progress(f"{setting}: building {shown(name)}")
        subjects[name] = build_subject(name, setting)
    for task, dtype in product(tasks, args.dtype):
        rows, rates = measure(subjects, task, dtype, setting, args)
        report.rows += rows
        for way, found in rates.items():
            report.rates.setdefault(way, []).extend(found)
        if args.json:
            write_report(report, args.json)  # now, so that a run that is stopped keeps what it has


def machine_name(device: str) -> str:
    """The processor's or GPU's name; for the latter also whether float32 is computed in TF32."""
    if device == "cuda":
        products, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        state = {True: "on", False: "off"}
        return (
            f"{torch.cuda.get_device_name()}, TF32 {state[products]} for products, {state[convolutions]} "
            "for convolutions"
        )
    cpuinfo = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return match.group(1) if match else platform.machine()


def print_flops(configs: list[str], case: tuple[int, int, int]) -> None:
    """Multiply-adds of whole detectors as a Markdown table."""
    try:
        import hiera_det.d2  # noqa: F401  registers
        from hiera_det.d2.config.setup import load_config
        from hiera_det.d2.model.flops import count_detector
    except ImportError as error:
        raise InputError(f"--flops: {error}") from None
    height, width, _ = case
    rows = {Path(config).stem: count_detector(load_config(config), height, width) for config in configs}
    parts = list(next(iter(rows.values())))
    print(f"multiply-adds in T at {height}x{width}, attention counted, 1000 proposals, 100 masks\n")
    print(f"| config | {' | '.join(parts)} |\n|{'---|' * (len(parts) + 1)}")
    for name, counts in rows.items():
        print(f"| {name} | {' | '.join(f'{counts[part] / 1e12:.3f}' for part in parts)} |")


def argument_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="base", help="Hiera's: tiny, small, base, base_plus, large or huge")
    parser.add_argument("--cases", nargs="+", default=DEFAULT_CASES, metavar="HxWxB", help="image sizes and batches")
    parser.add_argument(
        "--models",
        nargs="+",
        default=DEFAULT_MODELS,
        metavar="MODEL",
        help=f"trunks: {', '.join(TRUNKS)}, or all; ours that they are compared with run too",
    )
    parser.add_argument(
        "--task", nargs="+", default=["forward"], metavar="TASK", help=f"one or more of {', '.join(TASKS)}"
    )
    parser.add_argument(
        "--dtype",
        nargs="+",
        default=["float32"],
        metavar="TYPE",
        help="float32, bfloat16 (PyTorch's mixed precision) or both",
    )
    parser.add_argument("--compile", action="store_true", help="time all of ours compiled too, beside the eager ones")
    parser.add_argument(
        "--config-files",
        nargs="+",
        default=[DEFAULT_CONFIG],
        metavar="DETECTOR",
        help="for the detector tasks: config files, those of our trunks also with +compile after them, and vitdet-b; "
        "times are over the first",
    )
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds per case")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before them")
    parser.add_argument("--threads", type=int, default=2, help="PyTorch threads")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak memory")
    parser.add_argument(
        "--matrix-side",
        type=int,
        default=4096,
        metavar="N",
        help="side of the matrix product that gives the machine's rate; 0 leaves it out",
    )
    parser.add_argument("--flops", nargs="+", metavar="CONFIG", help="count these detectors' multiply-adds instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured there too")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of such a file instead")
    return parser


def main() -> None:
    """Measure, and print the table."""
    args = argument_parser().parse_args()
    if args.table:
        print(format_report(read_report(args.table)))
        return
    cases = [parse_case(text) for text in args.cases]
    if args.flops:
        print_flops(args.flops, parse_case("1024x1024x1") if args.cases is DEFAULT_CASES else cases[0])
        return
    warnings.filterwarnings("ignore")
    check_arguments(args)
    torch.set_num_threads(args.threads)
    report = Report(machine_name(args.device), args.device, args.threads, torch.__version__, args.size, args.rounds)
    trunk_tasks = [task for task in args.task if task not in DETECTOR_TASKS]
    detector_tasks = [task for task in args.task if task in DETECTOR_TASKS]
    trunks = trunks_to_run(args) if trunk_tasks else []
    detectors = detectors_to_run(args) if detector_tasks else []
    for case in cases:
        setting = Setting(args.size, *case, args.device, args.threads)
        if trunk_tasks:
            run_models(trunks, trunk_tasks, setting, args, report)
        if detector_tasks:
            run_models(detectors, detector_tasks, setting, args, report)
    print(format_report(report))
    if args.json:
        print(args.json)
