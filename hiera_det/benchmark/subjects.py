"""What the benchmark measures: a model with its inputs, what one step of a task is, and how much work that is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hiera_det.benchmark.catalogue import COMPILED, TRUNKS
from hiera_det.benchmark.peers import Trunk, build_trunk

__all__ = ["DetectorSubject", "Setting", "Step", "Subject", "TrunkSubject", "build_subject"]

Step = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """What all models of a case share.

    Attributes:
        size: Hiera's size.
        height: of the images, in pixels.
        width: likewise.
        batch: images.
        device: ``cpu`` or ``cuda``.
        threads: PyTorch's.
    """

    size: str
    height: int
    width: int
    batch: int
    device: str
    threads: int

    def __str__(self) -> str:
        """As in ``--cases``."""
        return f"{self.height}x{self.width}x{self.batch}"


class Subject(Protocol):
    """A model with its inputs on its device."""

    def step(self, task: str, dtype: str) -> Step:
        """Put the model in the task's mode and return what is timed; gradients are gone when it returns."""

    def count_gflop(self, task: str) -> float | None:
        """Thousand million operations of a step, two for each multiply-add, attention included; None if unknown."""


def autocast(device: str, dtype: str) -> AbstractContextManager[object]:
    """Mixed precision as PyTorch does it on the device, alike for all models; nothing for float32."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == "bfloat16")


class TrunkSubject:
    """A trunk and a batch of noise."""

    def __init__(self, trunk: Trunk, setting: Setting, compiled: bool) -> None:
        self.setting = setting
        self.module = trunk.module.to(setting.device)
        self.maps_of = trunk.maps
        self.callee: nn.Module = torch.compile(self.module, dynamic=None) if compiled else self.module  # type: ignore[assignment]
        shape = (setting.batch, 3, setting.height, setting.width)
        self.images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(setting.device)

    def step(self, task: str, dtype: str) -> Step:
        """See `Subject`: a forward without gradients, or forward and backward of the sum of the maps' mean squares."""
        self.module.train(task == "train")
        return partial(self._train if task == "train" else self.maps, dtype)

    @torch.inference_mode()
    def maps(self, dtype: str) -> list[Tensor]:
        """The maps, without gradients."""
        with autocast(self.setting.device, dtype):
            return list(self.maps_of(self.callee, self.images))

    def _train(self, dtype: str) -> None:
        with autocast(self.setting.device, dtype):
            maps = self.maps_of(self.callee, self.images)
            loss = torch.stack([map_.float().square().mean() for map_ in maps]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        self.module.zero_grad(set_to_none=True)

    def count_gflop(self, task: str) -> float | None:
        """See `Subject`; forward and backward are three times the forward, as is usual."""
        if self._forward_gflop is None:
            return None
        return self._forward_gflop * (3 if task == "train" else 1)

    @cached_property
    def _forward_gflop(self) -> float | None:
        """Counted on a copy without data, where nothing is computed and attention is spelled out."""
        shell = copy.deepcopy(self.module).to("meta").eval()
        images = torch.empty_like(self.images, device="meta")
        try:
            # Tensors that a model makes on the way follow the device.
            with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
                self.maps_of(shell, images)
        except (NotImplementedError, RuntimeError):  # an operation of theirs that needs data
            return None
        return counter.get_total_flops() / 1e9


class DetectorSubject:
    """A whole detector with its optimizer and a made batch."""

    def __init__(self, name: str, setting: Setting) -> None:
        self.name = name
        self.setting = setting
        from hiera_det.d2.benchmark.detectors import build_detector, load_detector_config, make_batch

        image = (setting.height, setting.width)
        cfg = load_detector_config(name.removesuffix(COMPILED), setting.device, name.endswith(COMPILED))
        self.module, self.optimizer = build_detector(cfg, image)
        self.inputs = make_batch(cfg, *image, setting.batch)
        self.gflop: dict[str, float] = {}

    def step(self, task: str, dtype: str) -> Step:
        """See `Subject`: images to masks in the image's size, or a step of `hiera-det train`."""
        from hiera_det.d2.benchmark.detectors import training_step

        self.module.train(task == "detector-train")
        if task == "detector-inference":
            return partial(self._infer, dtype)
        self._fill_optimizer_state()
        return training_step(self.module, self.inputs, self.optimizer, dtype)

    @torch.inference_mode()
    def _infer(self, dtype: str) -> object:
        with autocast(self.setting.device, dtype):
            return self.module(self.inputs)

    def _fill_optimizer_state(self) -> None:
        """Let the optimizer find its moments as in the middle of a training: a first step would also make them."""
        if self.optimizer.state:
            return
        for parameter in (parameter for group in self.optimizer.param_groups for parameter in group["params"]):
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()  # at a learning rate of 0
        self.optimizer.zero_grad(set_to_none=True)

    def count_gflop(self, task: str) -> float | None:
        """See `Subject`; counted in a step in float32, whose proposals depend on the data."""
        if self.name.endswith(COMPILED):  # whose generated code the counter does not see into
            return DetectorSubject(self.name.removesuffix(COMPILED), self.setting).count_gflop(task)
        if task not in self.gflop:
            step = self.step(task, "float32")
            # Attention spelled out: not every PyTorch counts the CPU's fused kernel.
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                step()
            self.gflop[task] = counter.get_total_flops() / 1e9
        return self.gflop[task]


def build_subject(name: str, setting: Setting) -> Subject:
    """A trunk of the table by its name, or a detector by its own."""
    if name.removesuffix(COMPILED) not in TRUNKS:
        return DetectorSubject(name, setting)
    trunk = build_trunk(name.removesuffix(COMPILED), setting.size, (setting.height, setting.width))
    return TrunkSubject(trunk, setting, compiled=name.endswith(COMPILED))
