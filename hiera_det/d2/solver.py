"""The optimizer: AdamW with no weight decay on norms and position embeddings (as ViTDet; Hiera Table 15)."""

from __future__ import annotations

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
    # detectron2 matches a parameter's own name, the last part: the trunk's only position embedding is "pos_embed".
    params = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        overrides={"pos_embed": {"weight_decay": solver.WEIGHT_DECAY_POS_EMBED}},
    )
    if solver.OPTIMIZER == "ADAMW":
        optimizer = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
        return optimizer(params, lr=solver.BASE_LR, betas=tuple(solver.BETAS), weight_decay=solver.WEIGHT_DECAY)
    if solver.OPTIMIZER == "SGD":
        optimizer = maybe_add_gradient_clipping(cfg, torch.optim.SGD)
        return optimizer(params, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV)
    raise InputError(f"SOLVER.OPTIMIZER {solver.OPTIMIZER!r}: choose ADAMW or SGD")
