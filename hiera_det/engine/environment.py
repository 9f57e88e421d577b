"""What a training runs on: packages, processor, GPUs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path

import torch

import hiera_det

__all__ = ["environment", "machine_name"]

PACKAGES = ("torch", "torchvision", "detectron2", "pycocotools", "timm", "numpy", "pillow")


def environment() -> dict[str, str]:
    """Names and versions, for people to read."""
    found = {"hiera_det": hiera_det.__version__, "Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["CUDA"] = torch.version.cuda or "none"
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    found["GPUs"] = ", ".join(gpus) or "none"
    found["processor"] = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    found["system"] = platform.platform()
    return found


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
