"""The optimizer: AdamW with no weight decay on norms and position embeddings (as ViTDet; Hiera Table 15)."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping, reduce_param_groups
from torch import nn

from hiera_det.engine.optimizer import POSITIONS, layer_of
from hiera_det.errors import InputError
from hiera_det.modeling.hiera import HieraBase

__all__ = ["build_optimizer", "param_groups"]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer that ``SOLVER`` describes.

    Raises:
        InputError: ``SOLVER.OPTIMIZER`` is neither ADAMW nor SGD, or ``SOLVER.LAYER_DECAY`` is not in (0, 1].
    """
    solver = cfg.SOLVER
    params = param_groups(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_pos_embed=solver.WEIGHT_DECAY_POS_EMBED,
        layer_decay=solver.LAYER_DECAY,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    if solver.OPTIMIZER == "ADAMW":
        optimizer = _with_clipping(cfg, torch.optim.AdamW)
        return optimizer(
            params,
            lr=solver.BASE_LR,
            betas=tuple(solver.BETAS),
            weight_decay=solver.WEIGHT_DECAY,
            fused=_fused_pays(cfg, params) or None,
        )
    if solver.OPTIMIZER == "SGD":
        optimizer = _with_clipping(cfg, torch.optim.SGD)
        return optimizer(params, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV)
    raise InputError(f"SOLVER.OPTIMIZER {solver.OPTIMIZER!r}: choose ADAMW or SGD")


def param_groups(
    model: nn.Module,
    *,
    base_lr: float,
    weight_decay: float,
    weight_decay_norm: float | None = 0.0,
    weight_decay_pos_embed: float = 0.0,
    layer_decay: float = 1.0,
    bias_lr_factor: float = 1.0,
    weight_decay_bias: float | None = None,
) -> list[dict[str, Any]]:
    """Parameters in groups of equal learning rate and weight decay.

    Args:
        model: with a Hiera trunk inside where ``layer_decay`` is below 1.
        base_lr: learning rate of necks and heads, and of the trunk where ``layer_decay`` is 1.
        weight_decay: of everything that the following do not cover.
        weight_decay_norm: of norms; None for ``weight_decay``.
        weight_decay_pos_embed: of all parts of the position embedding.
        layer_decay: d in the factor d^(L + 1 - i) on the learning rate of block i of L, counted from 1; the stem and
            the position embedding are layer 0, everything outside the trunk has 1 (as BEiT, ViTDet and SAM 2).
        bias_lr_factor: factor on the learning rate of biases.
        weight_decay_bias: of biases; None for ``weight_decay``.

    Returns:
        groups for a PyTorch optimizer, with ``params``, ``lr`` and ``weight_decay``.

    Raises:
        InputError: ``layer_decay`` is not in (0, 1].
    """
    if not 0 < layer_decay <= 1:
        raise InputError(f"SOLVER.LAYER_DECAY {layer_decay}: give a factor above 0 and up to 1")
    groups: list[dict[str, Any]] = get_default_optimizer_params(
        model,
        base_lr=base_lr,
        weight_decay=weight_decay,
        weight_decay_norm=weight_decay_norm,
        bias_lr_factor=bias_lr_factor,
        weight_decay_bias=weight_decay_bias,
        overrides={name: {"weight_decay": weight_decay_pos_embed} for name in POSITIONS},
    )
    if layer_decay == 1.0:
        return groups
    factors = _lr_factors(model, layer_decay)
    single = [
        {**group, "params": [parameter], "lr": group["lr"] * factors.get(parameter, 1.0)}
        for group in groups
        for parameter in group["params"]
    ]
    merged: list[dict[str, Any]] = reduce_param_groups(single)
    return merged


def _lr_factors(model: nn.Module, layer_decay: float) -> dict[nn.Parameter, float]:
    """The factor on the learning rate of each parameter of the trunk."""
    factors = {}
    for trunk in (module for module in model.modules() if isinstance(module, HieraBase)):
        depth = len(trunk.blocks)
        for name, parameter in trunk.named_parameters():
            factors[parameter] = layer_decay ** (depth + 1 - layer_of(name, depth))
    return factors


def _fused_pays(cfg: CfgNode, params: list[dict[str, Any]]) -> bool:
    """Whether to take one pass over the memory in place of a dozen.

    On a GPU the fused step takes over the unscaling of mixed precision, before which nothing may be clipped.
    """
    devices = {parameter.device.type for group in params for parameter in group["params"]}
    return devices == {"cpu"} or (devices == {"cuda"} and not cfg.SOLVER.CLIP_GRADIENTS.ENABLED)


def _with_clipping(cfg: CfgNode, base: type[torch.optim.Optimizer]) -> Any:
    """The optimizer's class with the clipping that ``SOLVER.CLIP_GRADIENTS`` asks for.

    "value" and "norm" are detectron2's and look at one parameter at a time; "full_model" clips the norm of all
    gradients together.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE not in ("value", "norm", "full_model"):
        raise InputError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE {clip.CLIP_TYPE!r}: choose value, norm or full_model")
    if not clip.ENABLED or clip.CLIP_TYPE != "full_model":
        return maybe_add_gradient_clipping(cfg, base)

    class FullModelClipping(base):  # type: ignore[misc, valid-type]
        def step(self, closure: Any = None) -> Any:
            # Under mixed precision the scaler has divided the gradients by its scale before it calls step.
            parameters = [parameter for group in self.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, clip.CLIP_VALUE, norm_type=clip.NORM_TYPE)
            return super().step(closure)

    return FullModelClipping
