"""Neck and heads that are computed anew in the backward pass, so that only their inputs are kept."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn
from torch.utils.checkpoint import checkpoint

__all__ = ["PARTS", "recompute_parts"]

#: Words of ``MODEL.HIERA.CHECKPOINT_STAGES`` beside the trunk's stages, and what detectron2 calls such modules.
PARTS = {"neck": ("neck",), "heads": ("rpn_head", "box_head", "mask_head", "keypoint_head", "head", "sem_seg_head")}


def recompute_parts(model: nn.Module, cfg: CfgNode) -> None:
    """Let those parts of a detector be recomputed that the config names; gradients stay the same to the bit.

    Args:
        model: of ``build_model``; its modules keep their names and parameters.
        cfg: ``MODEL.HIERA.USE_CHECKPOINT`` means all parts, ``MODEL.HIERA.CHECKPOINT_STAGES`` those that it names.
    """
    stages, everything = cfg.MODEL.HIERA.CHECKPOINT_STAGES, cfg.MODEL.HIERA.USE_CHECKPOINT
    for part, names in PARTS.items():
        if part in stages or (everything and not stages):
            for module in _named(model, names):
                kind: Any = type(module)
                # a class, not a forward of its own: copies of the model keep to their own parameters
                module.__class__ = _recomputing(kind)


def _named(model: nn.Module, names: tuple[str, ...]) -> Iterator[nn.Module]:
    """Modules of these names; of a cascade's list each."""
    for name, module in list(model.named_modules()):
        if name.rpartition(".")[2] in names:
            yield from module if isinstance(module, nn.ModuleList) else (module,)


@cache
def _recomputing(kind: Any) -> Any:
    """A class of modules that are recomputed: of heads with losses in their forward, their ``layers``."""
    name = "layers" if callable(getattr(kind, "layers", None)) else "forward"
    original = getattr(kind, name)

    def recomputed(self: nn.Module, *inputs: Any) -> Any:
        if self.training and torch.is_grad_enabled():
            return checkpoint(original, self, *inputs, use_reentrant=False)
        return original(self, *inputs)

    return type(kind.__name__, (kind,), {name: recomputed, "__module__": kind.__module__})
