r"""Time the trunk and the detector against their peers: one process, interleaved rounds, medians and ratios.

Each case runs every model in turn, round after round, so that a machine whose speed drifts slows all of them alike.
Hiera's implementations have the same random weights, and their maps are compared; swin_b and the like are what users
would pick instead. All four stage maps are asked for; ViT-B has one. Times are over ours of the same attention: global,
or windowed as in SAM 2 with its zero padding. Peers that are not installed are left out and named: pip install -e
'.[peers]', and for sam2, SAM 2's own trunk, SAM2_BUILD_CUDA=0 pip install --no-build-isolation sam2.

Tasks: forward, without gradients; train, forward and backward of the maps' mean squares; detector-inference, images
to pasted masks; detector-train, the step of hiera-det train with the optimizer's update. The detectors are
--config-files and detectron2's Mask R-CNN on ResNet-50. Among the former, vitdet-b is ViTDet's on ViT-B, for which
detectron2's main branch must be installed, and a config with +compile after it is that one with its trunk compiled, in
the rounds of --warmup, which are not counted. With random weights the number of detections differs from a trained
model's (hiera_det/d2/benchmark/detectors.py says how it is set).

Peak memory is what one step adds to the built model and the optimizer's moments, on a CPU in a fresh process for each
model. GFLOP counts two for each multiply-add, attention included, and takes a trunk's training for three forwards; the
rate stands over that of a square matrix product, measured on the same machine in the same type before and after.

Examples:
    hiera-det benchmark
    hiera-det benchmark --size tiny --cases 224x224x8 --rounds 11 --json benchmark.json
    hiera-det benchmark --models all --task forward train --dtype float32 bfloat16 --cases 512x512x1 800x1344x1
    hiera-det benchmark --task detector-inference detector-train \
        --config-files configs/mask_rcnn_hiera_{t,b}_1x.yaml
    hiera-det benchmark --device cuda --task detector-train detector-inference --dtype bfloat16 \
        --cases 1024x1024x1 --config-files configs/mask_rcnn_hiera_b.yaml configs/mask_rcnn_hiera_b.yaml+compile \
        vitdet-b --rounds 21 --warmup 5 --json detectors.json
    hiera-det benchmark --paths --size tiny --cases 224x224x4 512x512x1
    hiera-det benchmark --count --size base_plus --dtype bfloat16 --task forward train --cases 224x224x64 1024x1024x4
    hiera-det benchmark --count a100 --dtype bfloat16 --task detector-train --cases 1024x1024x2 \
        --config-files configs/mask_rcnn_hiera_{b,bplus}.yaml
    hiera-det benchmark --device cuda --all --json gpu.json
    hiera-det benchmark --table benchmark.json
    hiera-det benchmark --flops configs/mask_rcnn_hiera_{b,bplus,l}.yaml
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from hiera_det.api.needs import need_detectron2
from hiera_det.benchmark.catalogue import COMPILED, DEFAULT_MODELS, DETECTOR_TASKS, DTYPES, GPUS, TASKS, TRUNKS
from hiera_det.cli.command import command_parser
from hiera_det.errors import InputError
from hiera_det.modeling.variants import get_variant

DEFAULT_CASES = ("224x224x4", "1024x1024x1")
#: What --all measures where flags say nothing else, and what of it --tiny makes small.
ALL: dict[str, Any] = {
    "models": ["all"],
    "task": list(TASKS),
    "dtype": list(DTYPES),
    "cases": ("224x224x64", "1024x1024x4"),
    "config_files": ["mask_rcnn_hiera_b", "mask_rcnn_hiera_bplus", "vitdet-b"],
    "rounds": 21,
    "warmup": 5,
}
TINY = {
    "size": "tiny",
    "models": ["hiera_det", "hiera_det_windowed", "timm_windowed"],
    "cases": ("64x64x1", "96x64x1"),
    "config_files": ["quick_start"],
    "rounds": 1,
    "warmup": 1,
    "matrix_side": 64,
}


def argument_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = command_parser("benchmark", __doc__)
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
        default=["mask_rcnn_hiera_b_1x"],
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
    parser.add_argument(
        "--paths",
        action="store_true",
        help="time each path of the trunk, and print the row for its table of processors",
    )
    parser.add_argument(
        "--count",
        choices=list(GPUS),
        nargs="?",
        const="h100",
        metavar="GPU",
        help="count kernels, bytes moved and kept, and products instead, without a GPU; the time is a roofline's: "
        f"{', '.join(GPUS)} (h100 where none is named)",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="check the device, then measure all trunks in all tasks and types, and detectors on the last case; other "
        "flags change what",
    )
    parser.add_argument("--tiny", action="store_true", help="with --all: everything small, to see that it runs")
    parser.add_argument("--flops", nargs="+", metavar="CONFIG", help="count these detectors' multiply-adds instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured there too")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of such a file instead")
    return parser


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
    check_words("--dtype", args.dtype, DTYPES)
    for name, least in (("rounds", 1), ("threads", 1), ("warmup", 0), ("matrix_side", 0)):
        if getattr(args, name) < least:
            raise InputError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be at least {least}")
    if not args.warmup and (args.compile or any(name.endswith(COMPILED) for name in args.config_files)):
        raise InputError("--warmup 0: compiled models need 1 or more, in which the compiler runs")


def fill_all(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """What --all measures, into the flags that were not given; what cannot be here is left out."""
    from hiera_det.d2.benchmark.vitdet import VITDET_B, check_vitdet
    from hiera_det.engine.precision import bfloat16_factor

    wanted = ALL | (TINY if args.tiny else {})
    if args.device == "cpu" and bfloat16_factor() > 1:
        wanted |= {"dtype": ["float32"]}
    for name, value in wanted.items():
        if getattr(args, name) == parser.get_default(name):
            setattr(args, name, value)
    if VITDET_B in args.config_files:
        try:
            check_vitdet()
        except InputError as error:
            print(f"left out: {error}", file=sys.stderr)
            args.config_files = [name for name in args.config_files if name != VITDET_B]


def print_flops(configs: list[str], case: tuple[int, int, int]) -> None:
    """Multiply-adds of whole detectors as a Markdown table."""
    need_detectron2()
    from hiera_det.d2.model.flops import flops_table

    print(flops_table(configs, *case[:2]))


def main() -> None:
    """Measure, and print the table."""
    parser = argument_parser()
    args = parser.parse_args()
    if args.all:
        need_detectron2()
        fill_all(args, parser)
    if args.table:
        from hiera_det.benchmark.report import format_report, read_report

        print(format_report(read_report(args.table)))
        return
    cases = [parse_case(text) for text in args.cases]
    if args.flops:
        print_flops(args.flops, parse_case("1024x1024x1") if args.cases is DEFAULT_CASES else cases[0])
        return
    check_arguments(args)
    if args.paths:
        from hiera_det.benchmark.paths import compare_paths

        print(compare_paths(args.size, cases, args.rounds, args.warmup, args.threads))
        return
    if set(args.task) & set(DETECTOR_TASKS):
        need_detectron2()
    if args.count:
        print(count(args, cases))
        return
    print(measure(args, cases))
    if args.json:
        print(args.json)


def count(args: argparse.Namespace, cases: Sequence[tuple[int, int, int]]) -> str:
    """Count what checked flags ask for; the tables."""
    from hiera_det.benchmark.plan import format_plan
    from hiera_det.benchmark.run import trunks_to_run
    from hiera_det.benchmark.traffic import count_traffic, format_traffic

    warnings.filterwarnings("ignore")
    trunk_tasks = [task for task in args.task if task not in DETECTOR_TASKS]
    models = trunks_to_run(args.models, compiled=False) if trunk_tasks else []
    tables = []
    for dtype in args.dtype:
        counts = [
            count_traffic(model, args.size, case, task, dtype)
            for case, task, model in product(cases, trunk_tasks, models)
        ]
        if detector_tasks := [task for task in args.task if task in DETECTOR_TASKS]:
            from hiera_det.benchmark.detector_traffic import count_detector_traffic
            from hiera_det.d2.benchmark.detectors import ZOO_CONFIG

            counts += [
                count_detector_traffic(config_file, case, task, dtype)
                for case, task, config_file in product(cases, detector_tasks, [*args.config_files, ZOO_CONFIG])
            ]
        tables += [format_traffic(counts, dtype, args.count), format_plan(counts, args.count)]
    return "\n\n".join(table for table in tables if table)


def measure(args: argparse.Namespace, cases: Sequence[tuple[int, int, int]]) -> str:
    """Measure what checked flags ask for; the table."""
    from hiera_det.benchmark.report import format_report
    from hiera_det.benchmark.run import Bench, Protocol, trunks_to_run
    from hiera_det.cli.processes import chosen_device

    warnings.filterwarnings("ignore")
    protocol = Protocol(
        device=chosen_device(args.device),
        threads=args.threads,
        rounds=args.rounds,
        warmup=args.warmup,
        dtypes=tuple(args.dtype),
        matrix_side=args.matrix_side,
        memory=not args.no_memory,
    )
    bench = Bench(args.size, protocol, args.json)
    trunk_tasks = [task for task in args.task if task not in DETECTOR_TASKS]
    detector_tasks = [task for task in args.task if task in DETECTOR_TASKS]
    trunks = trunks_to_run(args.models, args.compile) if trunk_tasks else []
    detectors = bench.detectors_to_run(args.config_files, args.compile) if detector_tasks else []
    if args.all:
        bench.check()
    for case in cases:
        bench.run(trunks, trunk_tasks, case)
        if not args.all or case == cases[-1]:
            bench.run(detectors, detector_tasks, case)
    return format_report(bench.report)
