#!/usr/bin/env python3
"""Time the trunk against its peers: one process, same weights, interleaved rounds, medians and ratios.

Each case runs every model in turn, round after round, so that a machine whose speed drifts slows all of them alike.
All four stage maps are asked for, without gradients. Peak memory is what one forward adds to the built model, in a
fresh process for each model. Differences are to the model of the same attention: global, or windowed as in SAM 2 with
its zero padding. Peers that are not installed are left out and named: pip install -e '.[peers]'.

Examples:
    python tools/benchmark.py
    python tools/benchmark.py --size tiny --cases 224x224x8 --rounds 11 --json benchmark.json
    python tools/benchmark.py --cases 512x512x1 2048x2048x1 --models hiera_det_windowed --rounds 3
    python tools/benchmark.py --flops configs/mask_rcnn_hiera_{b,bplus,l}.yaml
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import multiprocessing
import platform
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from hiera_det import build_hiera
from hiera_det.errors import InputError, run_tool
from hiera_det.modeling.position import resize_pos_embed
from hiera_det.modeling.variants import get_variant, spread_global_blocks

Forward = Callable[[Tensor], list[Tensor]]
GRID = (56, 56)
DEFAULT_CASES = ("224x224x4", "1024x1024x1")


def load_official_state(size: str, image: tuple[int, int]) -> dict[str, Tensor]:
    """A random state dict in the authors' names; the position embedding is resized to the image."""
    torch.manual_seed(0)
    state = dict(build_hiera(size).state_dict())
    for name, tensor in state.items():
        state[name] = 0.05 * torch.randn_like(tensor) + (1.0 if re.search(r"norm\d\.weight", name) else 0.0)
    tokens = (image[0] // 4, image[1] // 4)
    state["pos_embed_resized"] = resize_pos_embed(state["pos_embed"], GRID, tokens).flatten(1, 2)
    return state


def load_peer(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Load the trunk's tensors into a model built for one image size."""
    resized = {name: tensor for name, tensor in state.items() if name != "pos_embed_resized"}
    resized["pos_embed"] = state["pos_embed_resized"]
    outcome = model.load_state_dict(resized, strict=False)
    if outcome.unexpected_keys:
        raise RuntimeError(f"peer does not know {outcome.unexpected_keys[:3]}")
    return model.eval()


def build_ours(size: str, image: tuple[int, int]) -> tuple[nn.Module, Forward]:
    """This project's trunk."""
    model = build_hiera(size)
    state = load_official_state(size, image)
    model.load_state_dict({name: tensor for name, tensor in state.items() if name != "pos_embed_resized"})
    model.eval()
    return model, lambda images: list(model(images).values())


def build_official(size: str, image: tuple[int, int]) -> tuple[nn.Module, Forward]:
    """The authors' package, built for the image size."""
    import hiera

    model = load_peer(getattr(hiera, f"hiera_{size}_224")(input_size=image), load_official_state(size, image))
    return model, lambda images: [m.permute(0, 3, 1, 2) for m in model(images, return_intermediates=True)[1]]


def build_timm(size: str, image: tuple[int, int]) -> tuple[nn.Module, Forward]:
    """Timm's Hiera, built for the image size."""
    import timm

    model = timm.create_model(f"hiera_{size}_224", pretrained=False, img_size=image)
    load_peer(model, load_official_state(size, image))
    return model, lambda images: model.forward_intermediates(images, intermediates_only=True)


def windows_of(size: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """SAM 2's windows and global blocks; for the sizes that it does not have, by the same rule."""
    window_size = (8, 4, 16, 8) if size in ("large", "huge") else (8, 4, 14, 7)
    return window_size, spread_global_blocks(get_variant(size).depths)


def build_ours_windowed(size: str, image: tuple[int, int]) -> tuple[nn.Module, Forward]:
    """This project's trunk with windows in stages 3 and 4 and three global blocks."""
    return _build_ours_windowed(size, image, windows_of(size)[1])


def build_ours_windows_only(size: str, image: tuple[int, int]) -> tuple[nn.Module, Forward]:
    """This project's trunk with windows in stages 3 and 4 and no global block."""
    return _build_ours_windowed(size, image, ())


def _build_ours_windowed(
    size: str, image: tuple[int, int], global_blocks: tuple[int, ...]
) -> tuple[nn.Module, Forward]:
    """This project's windowed trunk with the given global blocks."""
    window_size, _ = windows_of(size)
    model = build_hiera(size, window_size=window_size, global_blocks=global_blocks)
    state = load_official_state(size, image)
    model.load_state_dict({name: tensor for name, tensor in state.items() if name != "pos_embed_resized"})
    model.eval()
    return model, lambda images: list(model(images).values())


def build_timm_windowed(size: str, image: tuple[int, int]) -> tuple[nn.Module, Forward]:
    """Timm's HieraDet, SAM 2's trunk, at this size's depths and with the same position embedding."""
    from timm.models.hieradet_sam2 import HieraDet

    variant, (window_size, global_blocks) = get_variant(size), windows_of(size)
    model = HieraDet(
        embed_dim=variant.embed_dim,
        num_heads=variant.num_heads,
        stages=variant.depths,
        global_pos_size=GRID,
        window_spec=window_size,
        global_att_blocks=global_blocks,
        num_classes=0,
    )
    state = load_official_state(size, image)
    del state["pos_embed_resized"]
    state["pos_embed"] = state["pos_embed"].reshape(1, *GRID, -1).permute(0, 3, 1, 2)
    state["pos_embed_window"] = torch.zeros(1, variant.embed_dim, 8, 8)
    if model.load_state_dict(state, strict=False).unexpected_keys:
        raise RuntimeError("timm's HieraDet does not know the trunk's names")
    model.eval()
    return model, lambda images: model.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")


BUILDERS = {
    "hiera_det": build_ours,
    "official": build_official,
    "timm": build_timm,
    "hiera_det_windowed": build_ours_windowed,
    "timm_windowed": build_timm_windowed,
    "hiera_det_windows_only": build_ours_windows_only,
}
#: Whose maps a model's are compared with: ours of the same attention.
REFERENCES = {
    "timm_windowed": "hiera_det_windowed",
    "hiera_det_windowed": "hiera_det_windowed",
    "hiera_det_windows_only": "hiera_det_windows_only",
}
DEFAULT_MODELS = ("hiera_det", "official", "timm", "hiera_det_windowed", "timm_windowed")


def parse_case(text: str) -> tuple[int, int, int]:
    """``HxWxB`` to height, width and batch."""
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
    if not match:
        raise InputError(f"case {text!r}: write height x width x batch, for example 1024x1024x1")
    height, width, batch = (int(number) for number in match.groups())
    if height % 32 or width % 32 or not (height and width and batch):
        raise InputError(f"case {text!r}: height and width must be multiples of 32 and the batch at least 1")
    return height, width, batch


def time_once(forward: Forward, images: Tensor) -> float:
    """Seconds of one forward."""
    if images.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    forward(images)
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def time_case(
    forwards: dict[str, Forward], images: Tensor, rounds: int, warmup: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds per forward, and the median over rounds of each model's time over ours."""
    times: dict[str, list[float]] = {name: [] for name in forwards}
    for i in range(warmup + rounds):
        for name, forward in forwards.items():
            seconds = time_once(forward, images)
            if i >= warmup:
                times[name].append(seconds)
        print(f"\r  round {i + 1}/{warmup + rounds}", end="", file=sys.stderr, flush=True)
    print("\r" + " " * 30 + "\r", end="", file=sys.stderr)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = {
        name: statistics.median(t / ours for t, ours in zip(values, times["hiera_det"], strict=True))
        for name, values in times.items()
    }
    return medians, ratios


def largest_difference(forwards: dict[str, Forward], images: Tensor) -> dict[str, float]:
    """Largest difference from ours of the same attention over the map's largest value, over the four maps."""
    differences = {}
    for reference in ("hiera_det", "hiera_det_windowed", "hiera_det_windows_only"):
        names = [name for name in forwards if REFERENCES.get(name, "hiera_det") == reference]
        ours = forwards[reference](images) if names else []
        for name in names:
            theirs = forwards[name](images)
            differences[name] = max(
                ((a - b).abs().max() / a.abs().max()).item() for a, b in zip(ours, theirs, strict=True)
            )
    return differences


def _memory_worker(
    name: str, size: str, case: tuple[int, int, int], threads: int, queue: multiprocessing.Queue[float | None]
) -> None:
    """Put the MiB that one forward adds at its peak to the built model, or None where the system does not tell."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads)
    height, width, batch = case
    _, forward = BUILDERS[name](size, (height, width))
    images = torch.randn(batch, 3, height, width)
    status = Path("/proc/self/status")
    try:
        _return_freed_pages()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        before = _status_mib(status, "VmRSS")
        with torch.inference_mode():
            forward(images)
        queue.put(_status_mib(status, "VmHWM") - before)
    except (OSError, AttributeError):
        queue.put(None)


def _return_freed_pages() -> None:
    """Give what building the model left free back to the system, so that the forward is seen to take its own."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _status_mib(status: Path, field: str) -> float:
    """One field of /proc/self/status in MiB."""
    match = re.search(rf"{field}:\s+(\d+) kB", status.read_text())
    if match is None:
        raise OSError(f"{status} has no {field}")
    return int(match.group(1)) / 1024


def peak_memory(name: str, size: str, case: tuple[int, int, int], threads: int, device: str) -> float | None:
    """MiB that one forward adds to the built model at its peak."""
    height, width, batch = case
    if device == "cuda":
        model, forward = BUILDERS[name](size, (height, width))
        model.cuda()
        images = torch.randn(batch, 3, height, width, device=device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with torch.inference_mode():
            forward(images)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_memory_worker, args=(name, size, case, threads, queue))
    process.start()
    peak = queue.get(timeout=600)
    process.join()
    return peak


def installed_builders(wanted: list[str]) -> list[str]:
    """The models that can be built here; the others are named on stderr."""
    found = []
    for name in wanted:
        try:
            __import__("hiera" if name == "official" else "timm" if "timm" in name else "hiera_det")
            found.append(name)
        except ImportError:
            print(f"{name}: not installed, left out (pip install -e '.[peers]')", file=sys.stderr)
    return found


def run_case(names: list[str], case: tuple[int, int, int], args: argparse.Namespace) -> list[dict[str, object]]:
    """One row per model."""
    height, width, batch = case
    images = torch.randn(batch, 3, height, width, device=args.device)
    forwards: dict[str, Forward] = {}
    for name in names:
        model, forwards[name] = BUILDERS[name](args.size, (height, width))
        model.to(args.device)
    with torch.inference_mode():
        differences = largest_difference(forwards, images)
        medians, ratios = time_case(forwards, images, args.rounds, args.warmup)
    del forwards
    return [
        {
            "height": height,
            "width": width,
            "batch": batch,
            "model": name,
            "median_ms": 1000 * medians[name],
            "time_over_ours": ratios[name],
            "peak_mib": peak_memory(name, args.size, case, args.threads, args.device),
            "difference": differences[name],
        }
        for name in names
    ]


def print_flops(configs: list[str], case: tuple[int, int, int]) -> None:
    """Multiply-adds of whole detectors as a Markdown table."""
    try:
        import hiera_det.d2  # noqa: F401  registers
        from hiera_det.d2.flops import count_detector
        from hiera_det.d2.setup import load_config
    except ImportError as error:
        raise InputError(f"--flops: {error}") from None
    height, width, _ = case
    rows = {Path(config).stem: count_detector(load_config(config), height, width) for config in configs}
    parts = list(next(iter(rows.values())))
    print(f"multiply-adds in T at {height}x{width}, attention counted, 1000 proposals, 100 masks\n")
    print(f"| config | {' | '.join(parts)} |\n|{'---|' * (len(parts) + 1)}")
    for name, counts in rows.items():
        print(f"| {name} | {' | '.join(f'{counts[part] / 1e12:.3f}' for part in parts)} |")


def format_table(rows: list[dict[str, object]]) -> str:
    """Rows as a Markdown table."""
    lines = [
        "| image, batch | model | median ms | time over ours | peak MiB over the weights | largest difference |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        peak = "not measured" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
        lines.append(
            f"| {row['height']}x{row['width']}, {row['batch']} | {row['model']} | {row['median_ms']:.0f} "
            f"| {row['time_over_ours']:.2f} | {peak} | {row['difference']:.1e} |"
        )
    return "\n".join(lines)


def argument_parser() -> argparse.ArgumentParser:
    """Flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="base", help="tiny, small, base, base_plus, large or huge")
    parser.add_argument("--cases", nargs="+", default=DEFAULT_CASES, metavar="HxWxB", help="image sizes and batches")
    parser.add_argument("--models", nargs="+", default=DEFAULT_MODELS, choices=list(BUILDERS), help="ours always runs")
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds per case")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before them")
    parser.add_argument("--threads", type=int, default=2, help="PyTorch threads")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--flops", nargs="+", metavar="CONFIG", help="count these detectors' multiply-adds instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    return parser


def main() -> None:
    """Measure, and print the table."""
    args = argument_parser().parse_args()
    get_variant(args.size)
    cases = [parse_case(text) for text in args.cases]
    if args.flops:
        print_flops(args.flops, parse_case("1024x1024x1") if args.cases is DEFAULT_CASES else cases[0])
        return
    if args.rounds < 1 or args.threads < 1:
        raise InputError("--rounds and --threads must be at least 1")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no GPU here; leave it out")
    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    wanted = ["hiera_det", *args.models, *(REFERENCES[name] for name in args.models if name in REFERENCES)]
    names = installed_builders(list(dict.fromkeys(wanted)))
    rows = [row for case in cases for row in run_case(names, case, args)]
    print(
        f"hiera_{args.size}, float32, {args.device}, {args.threads} threads, torch {torch.__version__}, "
        f"{platform.machine()}, {args.rounds} interleaved rounds\n"
    )
    print(format_table(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
        print(args.json)


if __name__ == "__main__":
    run_tool(main)
