"""The model in several processes: a copy in each (DDP), or shared out among them (FSDP2).

Checkpoints are the same whichever it is: tensors are gathered whole before they are written, and shared out again when
they are read, so that a training may go on in another number of processes, or in one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hiera_det.engine.processes import process_count
from hiera_det.modeling.hiera import HieraBase

#: FSDP2 is there from PyTorch 2.6 on; it is imported where it is at work, for it takes most of a second.
HAS_FSDP = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 6)

__all__ = [
    "HAS_FSDP",
    "gather",
    "is_sharded",
    "like",
    "optimizer_state_like",
    "unwrap",
    "whole",
    "without_sync",
    "wrap",
]


def wrap(model: nn.Module, parallel: str = "ddp") -> nn.Module:
    """Prepare a model for all processes of the group; a single one needs nothing.

    Args:
        model: on its device.
        parallel: "ddp" or "fsdp". The latter replaces the model's parameters: build the optimizer after it.

    Returns:
        the model, or its wrapper.
    """
    if process_count() == 1:
        return model
    if parallel == "fsdp":
        return _shard(model)
    # Every parameter has a part in every loss, so that nobody needs to look for unused ones.
    device = next(model.parameters()).device
    devices = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, devices)


def _shard(model: nn.Module) -> nn.Module:
    """Share out each block of the trunk, gathered when it computes, and the rest of the model as one."""
    from torch.distributed.fsdp import fully_shard

    for parameter in model.parameters():  # all start from the first process's weights, as under DDP
        torch.distributed.broadcast(parameter.data, 0)
    for trunk in (module for module in model.modules() if isinstance(module, HieraBase)):
        for block in trunk.blocks:
            fully_shard(block)
    fully_shard(model)
    return model


def is_sharded(model: nn.Module) -> bool:
    """Whether `wrap` has shared the model out, which it does for several processes alone."""
    if not HAS_FSDP or process_count() == 1:
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def _is_dtensor(tensor: Any) -> bool:
    """Whether a tensor is part of such a model or of what belongs to it."""
    if not HAS_FSDP or process_count() == 1:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def unwrap(model: nn.Module) -> nn.Module:
    """The model without its wrapper for several processes."""
    return model.module if isinstance(model, DistributedDataParallel) else model


@contextlib.contextmanager
def without_sync(model: Any) -> Iterator[None]:
    """Keep gradients to this process, for all but the last of several backward passes."""
    if is_sharded(model):
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)
    elif isinstance(model, DistributedDataParallel):
        with model.no_sync():
            yield
    else:
        yield


@contextlib.contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """A context in which each process has the whole model, and may run it as often as it likes.

    A shared model is gathered anew in each forward pass, for which all processes must be there: evaluation, where one
    may have an image more than another, would wait forever. All processes must enter and leave.
    """
    shards: list[Any] = [module for module in model.modules() if is_sharded(module)]
    for module in shards:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in shards:
            module.set_reshard_after_forward(module is not model, recurse=False)  # as `fully_shard` has it
            module.reshard()


def gather(state: Any) -> Any:
    """A state dict with whole tensors; all processes must call it where the model is shared out."""
    if isinstance(state, dict):
        return {key: gather(value) for key, value in state.items()}
    if isinstance(state, list):
        return [gather(value) for value in state]
    return state.full_tensor() if _is_dtensor(state) else state


def like(tensor: Tensor, model_tensor: Tensor) -> Tensor:
    """A whole tensor, the same in all processes, shared out as the model's is."""
    if not _is_dtensor(model_tensor) or _is_dtensor(tensor):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    shared: Any = model_tensor
    mesh, placements = shared.device_mesh, shared.placements
    return distribute_tensor(tensor.to(model_tensor.device), mesh, placements, src_data_rank=None)


def optimizer_state_like(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's gathered state dict, its tensors shared out as the parameters of ``optimizer`` are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    shared = dict(state["state"])
    for number, parameter in zip(numbers, parameters, strict=False):  # PyTorch itself refuses groups that differ
        if number in shared:
            shared[number] = {
                name: like(value, parameter) if getattr(value, "shape", None) == parameter.shape else value
                for name, value in shared[number].items()
            }
    return {**state, "state": shared}
