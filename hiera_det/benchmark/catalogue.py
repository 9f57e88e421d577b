"""What can be measured, by name; nothing here needs PyTorch, so that ``--help`` can list it at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "BASELINES",
    "COMPILED",
    "DEFAULT_MODELS",
    "DETECTOR_TASKS",
    "DTYPES",
    "GPUS",
    "TASKS",
    "TRUNKS",
    "Gpu",
    "Peer",
    "baseline_of",
    "shown",
    "with_references",
]

DETECTOR_TASKS = ("detector-inference", "detector-train")
TASKS = ("forward", "train", *DETECTOR_TASKS)
DTYPES = ("float32", "bfloat16")
#: What a compiled model's name ends in.
COMPILED = "+compile"


@dataclass(frozen=True)
class Peer:
    """A trunk that can be asked for; `hiera_det.benchmark.peers` builds it.

    Attributes:
        package: what must be installed.
        reference: ours of the same attention and weights, whose maps it should give; "" for other architectures.
    """

    package: str
    reference: str = ""


TRUNKS = {
    "hiera_det": Peer("hiera_det", "hiera_det"),
    "official": Peer("hiera", "hiera_det"),
    "transformers": Peer("transformers", "hiera_det"),
    "timm": Peer("timm", "hiera_det"),
    "hiera_det_windowed": Peer("hiera_det", "hiera_det_windowed"),
    "timm_windowed": Peer("timm", "hiera_det_windowed"),
    "sam2": Peer("sam2", "hiera_det_windowed"),
    "hiera_det_windows_only": Peer("hiera_det", "hiera_det_windows_only"),
    "resnet50": Peer("timm"),
    "swin_t": Peer("timm"),
    "swin_b": Peer("timm"),
    "convnext_s": Peer("timm"),
    "vit_b_windowed": Peer("timm"),
}


@dataclass(frozen=True)
class Gpu:
    """What a roofline takes of a GPU: what large products, copies and collectives reach of the maker's figures.

    Attributes:
        rate: bfloat16 products, operations a second.
        bandwidth: bytes a second.
        inside: bytes a second that a GPU sends to others of its machine of 8.
        outside: likewise between machines.
        launch: seconds from one kernel's start to the next's, where the host is slow.
    """

    rate: float
    bandwidth: float
    inside: float
    outside: float
    launch: float = 4e-6


GPUS = {
    "h100": Gpu(rate=700e12, bandwidth=3.0e12, inside=360e9, outside=40e9),
    "a100": Gpu(rate=220e12, bandwidth=1.8e12, inside=240e9, outside=20e9),
    "rtx4090": Gpu(rate=150e12, bandwidth=0.9e12, inside=20e9, outside=1.2e9),
}
DEFAULT_MODELS = ("hiera_det", "official", "transformers", "timm", "hiera_det_windowed", "timm_windowed", "sam2")
#: Ours that times are given over; models that are like neither stand over the first that runs.
BASELINES = ("hiera_det_windowed", "hiera_det")


def with_references(wanted: Sequence[str]) -> list[str]:
    """The models asked for, each once, and before each the one of ours that it is compared with."""
    names = [found for name in wanted for found in (TRUNKS[name].reference, name) if found]
    if not set(names) & set(BASELINES):
        names.insert(0, BASELINES[-1])
    return list(dict.fromkeys(names))


def baseline_of(name: str, running: Sequence[str]) -> str:
    """Ours that a model's time is given over: that of the same attention; for others the first baseline that runs."""
    reference = TRUNKS[name.removesuffix(COMPILED)].reference
    return reference if reference in BASELINES else next(ours for ours in BASELINES if ours in running)


def shown(name: str) -> str:
    """A model's name; a config file's is without folder and ending."""
    eager = name.removesuffix(COMPILED)
    return Path(eager).stem + name[len(eager) :]
