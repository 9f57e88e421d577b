"""AdamW by groups: no weight decay where it does harm, and rates that fall from the last block to the first."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hiera_det.engine.sharding import optimizer_state_like
from hiera_det.errors import InputError
from hiera_det.modeling.hiera import HieraBase

__all__ = [
    "POSITIONS",
    "build_adamw",
    "get_param_groups",
    "is_decayed",
    "layer_of",
    "load_optimizer",
    "parameter_groups",
    "set_lr",
]

#: Own names, the last part, of the parameters of position embeddings.
POSITIONS = ("pos_embed", "pos_embed_window", "pos_embed_spatial", "pos_embed_temporal", "decoder_pos_embed")


def layer_of(name: str, depth: int) -> int:
    """The layer of a parameter: 0 for stem and positions, 1 to ``depth`` for the blocks, ``depth`` for all after.

    So in the authors' training code; the head learns at the full rate, and so does the last block.
    """
    if name.startswith(("pos_embed", "patch_embed")):
        return 0
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return depth


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is under weight decay: not norms and biases (vectors), nor position embeddings."""
    return parameter.ndim > 1 and name.rpartition(".")[2] not in POSITIONS


def parameter_groups(model: HieraBase, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """All parameters, each in one group, by layer and decay.

    Args:
        model: a trunk, classifier or autoencoder.
        weight_decay: for those that `is_decayed` names.
        layer_decay: the learning rate's factor from a layer to the one before.

    Returns:
        groups for an optimizer, with ``lr_scale``, the factor on the learning rate that `set_lr` applies.
    """
    depth = len(model.blocks)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        # Without layer decay two groups do; every further one costs a pass of the optimizer.
        layer = layer_of(name, depth) if layer_decay != 1 else depth
        decayed = is_decayed(name, parameter)
        options = {"weight_decay": weight_decay if decayed else 0.0, "lr_scale": layer_decay ** (depth - layer)}
        groups.setdefault((layer, decayed), {"params": []} | options)["params"].append(parameter)
    return list(groups.values())


def get_param_groups(
    model: nn.Module, lr: float, weight_decay: float = 0.05, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """The parameters that learn of a model with a trunk somewhere in it, in groups for any optimizer of PyTorch's.

    Args:
        model: a trunk or what is built around one, such as a detector.
        lr: learning rate of all that is not the trunk's.
        weight_decay: of all but norms, biases and position embeddings.
        layer_decay: d in the factor d^(L + 1 - i) on the learning rate of block i of L, counted from 1; stem and
            positions are layer 0 (as BEiT, ViTDet and timm).

    Returns:
        groups with ``params``, ``lr`` and ``weight_decay``.

    Raises:
        InputError: ``layer_decay`` is not in (0, 1], or is below 1 and there is no trunk.

    Example:
        >>> import torch
        >>> from hiera_det import get_param_groups, hiera_tiny
        >>> optimizer = torch.optim.AdamW(get_param_groups(hiera_tiny(), lr=1e-4, layer_decay=0.8))
    """
    trunks = [module for module in model.modules() if isinstance(module, HieraBase)]
    if not 0 < layer_decay <= 1 or (layer_decay < 1 and not trunks):
        fault = "give a factor above 0 and up to 1" if trunks else "there is no Hiera trunk in the model"
        raise InputError(f"layer_decay {layer_decay}: {fault}")
    factors = {}
    for trunk in trunks:
        after = len(trunk.blocks) + 1  # a classifier's head is no part of the trunk
        for name, parameter in trunk.named_parameters():
            factors[parameter] = layer_decay ** (after - layer_of(name, after))
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = weight_decay if is_decayed(name, parameter) else 0.0
            groups.setdefault((lr * factors.get(parameter, 1.0), decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def build_adamw(
    model: nn.Module, betas: tuple[float, float], weight_decay: float, layer_decay: float
) -> torch.optim.Optimizer:
    """AdamW over `parameter_groups`, or `get_param_groups` of what is around a trunk; its rate is 0 until `set_lr`."""
    if isinstance(model, HieraBase):
        groups = parameter_groups(model, weight_decay, layer_decay)
    else:
        groups = get_param_groups(model, 1.0, weight_decay, layer_decay)
        groups = [group | {"lr_scale": group.pop("lr")} for group in groups]
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group, times its ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take up a gathered state dict; the options of the groups, such as weight decay, stay those of ``optimizer``.

    Raises:
        ValueError: it is of other parameters.
        KeyError: it is no optimizer's.
    """
    own = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(optimizer_state_like(state, optimizer))
    for group, options in zip(optimizer.param_groups, own, strict=True):
        group.update(options)
        for parameter in group["params"]:
            kept = [value for value in optimizer.state[parameter].values() if getattr(value, "ndim", 0)]
            if any(value.shape != parameter.shape for value in kept) or (not kept and state["state"]):
                raise ValueError("the optimizer's state is of other parameters")
