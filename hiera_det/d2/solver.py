"""The optimizer: AdamW with no weight decay on norms and position embeddings (as ViTDet; Hiera Table 15)."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

from hiera_det.errors import InputError

__all__ = ["build_optimizer"]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer that ``SOLVER`` describes.

    Raises:
        InputError: ``SOLVER.OPTIMIZER`` is neither ADAMW nor SGD.
    """
    solver = cfg.SOLVER
    # detectron2 matches a parameter's own name, the last part.
    positions = ("pos_embed", "pos_embed_window", "pos_embed_spatial", "pos_embed_temporal")
    params = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        overrides={name: {"weight_decay": solver.WEIGHT_DECAY_POS_EMBED} for name in positions},
    )
    if solver.OPTIMIZER == "ADAMW":
        optimizer = _with_clipping(cfg, torch.optim.AdamW)
        # One pass over the memory in place of a dozen. On a GPU it would take the scaler's work in mixed precision, and
        # gradients would be clipped before they are unscaled.
        fused = all(parameter.device.type == "cpu" for group in params for parameter in group["params"])
        return optimizer(
            params,
            lr=solver.BASE_LR,
            betas=tuple(solver.BETAS),
            weight_decay=solver.WEIGHT_DECAY,
            fused=fused or None,
        )
    if solver.OPTIMIZER == "SGD":
        optimizer = _with_clipping(cfg, torch.optim.SGD)
        return optimizer(params, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV)
    raise InputError(f"SOLVER.OPTIMIZER {solver.OPTIMIZER!r}: choose ADAMW or SGD")


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
