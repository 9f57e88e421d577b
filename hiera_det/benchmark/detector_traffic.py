"""What whole detectors cost a GPU, by counting: their layers, without data."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hiera_det.benchmark.catalogue import shown
from hiera_det.benchmark.traffic import Traffic, count_step

__all__ = ["count_detector_traffic"]


def count_detector_traffic(config_file: str, case: tuple[int, int, int], task: str, dtype: str) -> Traffic:
    """Count a step of a Mask R-CNN's trunk, neck and heads, with as many regions as its config lets through.

    Pooling and suppression of regions, matching, losses and the optimizer depend on data or are small, and are left
    out.

    Args:
        config_file: as for `hiera_det.d2.benchmark.detectors.load_detector_config`.
        case: height, width and batch.
        task: ``detector-inference`` or ``detector-train``, which goes back through all parts.
        dtype: ``float32`` or ``bfloat16``, of weights too.
    """
    from hiera_det.d2.benchmark.detectors import load_detector_config
    from hiera_det.d2.model.flops import build_shell, detector_parts

    cfg = load_detector_config(config_file, "cpu")
    height, width, batch = case
    training = task == "detector-train"
    if training:
        proposals = cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
        masks = int(proposals * cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION)
    else:
        proposals, masks = cfg.MODEL.RPN.POST_NMS_TOPK_TEST, cfg.TEST.DETECTIONS_PER_IMAGE
    model = build_shell(cfg).to(getattr(torch, dtype))
    images = torch.zeros(batch, len(cfg.MODEL.PIXEL_MEAN), height, width, dtype=getattr(torch, dtype), device="meta")
    with torch.device("meta"), torch.no_grad():
        parts = detector_parts(model, images, batch * proposals, batch * masks)
    total = (0, 0, 0, 0)
    for module, given in parts.values():
        inputs = given if given is images else _leaves(given, training)
        counted = count_step(module, partial(_run, module, inputs), training)
        total = tuple(map(sum, zip(total, counted, strict=True)))  # type: ignore[assignment]
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return Traffic(shown(config_file), task, case, *total, parameters=parameters)


def _leaves(given: Any, training: bool) -> Any:
    """A part's input as if from a part before it: gradients go back to it."""
    if isinstance(given, Tensor):
        return given.detach().requires_grad_(training)
    if isinstance(given, Mapping):
        return {name: _leaves(x, training) for name, x in given.items()}
    return [_leaves(x, training) for x in given]


def _run(module: nn.Module, inputs: Any) -> list[Tensor]:
    return _tensors(module(inputs))


def _tensors(given: Any) -> list[Tensor]:
    """All tensors of an output."""
    if isinstance(given, Tensor):
        return [given]
    return [x for part in (given.values() if isinstance(given, Mapping) else given) for x in _tensors(part)]
