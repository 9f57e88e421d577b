"""Whether a training can go on from what its checkpoint holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hiera_det.errors import InputError
from hiera_det.weights.tensors import named_tensors, not_finite, shown

__all__ = ["check_optimizer_state", "check_training_state"]


def check_training_state(state: Mapping[str, Any], path: str, required: Sequence[str] = ()) -> None:
    """Refuse a checkpoint that lacks a part, or that has NaN or infinite values in weights, average or optimizer.

    Args:
        state: what was read, see `hiera_det.weights.sources.read_weight_file`.
        path: the file, for the message.
        required: keys that must be there.

    Raises:
        InputError: no training can go on from it, in one line.
    """
    missing = [key for key in required if key not in state]
    if missing:
        raise InputError(f"{path}: is no checkpoint of a training (no {missing[0]}); give the folder of one")
    if names := not_finite(dict(named_tensors(state, path))):
        more = f", ... ({len(names)} in all)" if len(names) > 3 else ""
        raise InputError(
            f"{path}: has NaN or infinite values in {', '.join(names[:3])}{more}: the training had diverged; go on "
            "from an earlier checkpoint with a lower learning rate"
        )


def check_optimizer_state(saved: Any, optimizer: torch.optim.Optimizer, path: str) -> None:
    """Refuse the state of another model's optimizer, which PyTorch would take and stumble over at the next step.

    Args:
        saved: ``optimizer.state_dict()`` of then.
        optimizer: that of now.
        path: the file, for the message.

    Raises:
        InputError: it is no optimizer's state, or its groups, numbers or shapes are not those of this optimizer.
    """
    fault = _groups_fault(saved, optimizer) or _state_fault(saved, optimizer)
    if fault:
        raise InputError(f"{path}: its optimizer {fault}; resume with the settings that it was made with")


def _groups_fault(saved: Any, optimizer: torch.optim.Optimizer) -> str:
    """What is wrong with the parameter groups, or nothing."""
    groups = saved.get("param_groups") if isinstance(saved, Mapping) else None
    if not isinstance(groups, list) or not isinstance(saved.get("state"), Mapping):
        return f"is {shown(saved)} without state or groups"
    if not all(isinstance(group, Mapping) and isinstance(group.get("params"), list) for group in groups):
        return "has groups without parameters"
    theirs, ours = ([len(group["params"]) for group in which] for which in (groups, optimizer.param_groups))
    if theirs != ours:
        return f"has {sum(theirs)} parameters in {len(theirs)} groups, and the model has {sum(ours)} in {len(ours)}"
    for group, own in zip(groups, optimizer.param_groups, strict=True):
        for key in [key for key, value in own.items() if _is_number(value)]:
            # What came later than the file, as a schedule's own entries, may be missing.
            if (key in group or key in optimizer.defaults) and not _is_number(group.get(key)):
                return f"has {key} {shown(group.get(key))}, which is no number"
    return ""


def _state_fault(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> str:
    """What is wrong with the parameters' own entries, or nothing."""
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        entry = saved["state"].get(number, {}) if isinstance(number, int) else None
        if not isinstance(entry, Mapping):
            return f"has {shown(entry)} for parameter {shown(number)}"
        for key, value in entry.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                return f"has {key} of shape {list(value.shape)} for a parameter of {list(parameter.shape)}"
    return ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
