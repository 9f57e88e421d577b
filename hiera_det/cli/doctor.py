"""Say what is installed, what is missing and the command that gets it, and on what a training could run.

Exits with 1 where a package is missing that nothing works without, or where one cannot be imported.

Example:
    hiera-det doctor
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import hiera_det
from hiera_det.cli.command import command_parser


@dataclass(frozen=True)
class Package:
    """Something to be installed.

    Attributes:
        module: its name in Python.
        pip: what pip is to be given.
        needed_for: what does not work without it.
        is_required: nothing works without it.
        distribution: its name on the package index, where that is not ``pip``'s.
    """

    module: str
    pip: str
    needed_for: str
    is_required: bool = False
    distribution: str = ""

    @property
    def command(self) -> str:
        """What installs it, or puts it right."""
        if self.module == "detectron2":
            return f"{sys.executable} -m hiera_det install-detectron2"
        return f"{sys.executable} -m pip install --upgrade {self.pip}"

    @property
    def version(self) -> str:
        """The installed one; "" where its files do not tell."""
        try:
            return importlib.metadata.version(self.distribution or self.pip)
        except importlib.metadata.PackageNotFoundError:
            return ""


PACKAGES = (
    Package("torch", "'torch>=2.5' torchvision", "everything", is_required=True, distribution="torch"),
    Package("numpy", "numpy", "everything", is_required=True),
    Package("safetensors", "safetensors", "weight files", is_required=True),
    Package("torchvision", "torchvision", "detectors, classifiers, pretraining"),
    Package("detectron2", "", "detectors", distribution="detectron2"),
    Package("pycocotools", "pycocotools", "detectors"),
    Package("PIL", "Pillow", "images"),
    Package("tqdm", "tqdm", "progress"),
    Package("matplotlib", "matplotlib", "curves"),
    Package("jinja2", "jinja2", "reports"),
    Package("timm", "'timm>=1.0.15'", "augmentation of classifiers' images", distribution="timm"),
    Package("av", "'av>=12'", "videos", distribution="av"),
    Package("huggingface_hub", "huggingface_hub", "weights at hf:// and timm://"),
    Package("faster_coco_eval", "faster-coco-eval", "TEST.COCO_EVAL faster-coco-eval"),
)


def argument_parser() -> argparse.ArgumentParser:
    """No flags but help."""
    return command_parser("doctor", __doc__)


def main() -> None:
    """Look, and print as it is found."""
    argument_parser().parse_args()
    print(f"hiera_det {hiera_det.__version__} in {Path(hiera_det.__file__).parent}")
    print(f"Python {platform.python_version()}, {sys.executable}, {platform.system()} {platform.machine()}")
    unwell = []
    for package in PACKAGES:
        trouble = problem(package)
        print(f"{package.module:17}{trouble or package.version}", flush=True)
        if trouble:
            unwell.append((package, trouble))
    print(devices())
    for package, _ in unwell:
        print(f"for {package.needed_for}: {package.command}")
    if any(package.is_required or trouble != "missing" for package, trouble in unwell):
        sys.exit(1)


def problem(package: Package) -> str:
    """What keeps a package from being used; "" for nothing."""
    try:
        importlib.import_module(package.module)
    except Exception as error:  # a library built for another PyTorch fails in its own way
        if isinstance(error, ModuleNotFoundError) and error.name == package.module:
            return "missing"
        return f"cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}"
    return ""


def devices() -> str:
    """Processor and GPUs as PyTorch sees them."""
    found = [f"{os.cpu_count()} processor cores"]
    if "torch" in sys.modules:
        import torch

        found += [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())] or ["no GPU"]
    return f"{'devices':17}{', '.join(found)}"
