"""A detector, its optimizer, schedule and augmentation, built without memory: values that fit no other show at once."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler

from hiera_det.d2.config.kinds import shown
from hiera_det.d2.config.layers import Layer
from hiera_det.d2.config.load import config_layers, merge_layers
from hiera_det.d2.config.request import RunRequest
from hiera_det.d2.config.schedule import resolve_schedule
from hiera_det.d2.data.mapper import build_train_mapper
from hiera_det.d2.train.solver import build_optimizer
from hiera_det.errors import InputError

__all__ = ["rehearse"]

#: What the building of a detector raises for values that it cannot use: it has no kind of error of its own.
UNUSABLE = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, IndexError, KeyError, NotImplementedError),
    *(RuntimeError, TypeError, UnboundLocalError, ValueError),
)


def rehearse(cfg: CfgNode, request: RunRequest) -> None:
    """Build all that a training builds, on PyTorch's meta device.

    Args:
        cfg: checked, with its schedule in iterations.
        request: where its keys come from.

    Raises:
        InputError: it cannot be built; the line names the key that is to blame.
    """
    try:
        _build(cfg, request.eval_only)
    except InputError:
        raise
    except UNUSABLE as error:
        reason = shown(" ".join(f"{type(error).__name__} {error}".split()))
        raise InputError(f"{_culprit(request)}: no detector can be built with it ({reason})") from error


def _build(cfg: CfgNode, eval_only: bool) -> None:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    cfg.MODEL.HIERA.COMPILE = False
    with _quiet(), torch.device("meta"):
        model = build_model(cfg)
        if not eval_only:
            optimizer = build_optimizer(cfg, model)
            build_train_mapper(cfg)
            with torch.device("cpu"):
                build_lr_scheduler(cfg, optimizer)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A context whose log is that of the building that follows, and is not said twice."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _culprit(request: RunRequest) -> str:
    """The last key that was set without which the detector can be built, and its value; else the file."""
    written = config_layers(request.config_file, request.opts)
    for index in reversed(range(len(written))):
        source = "" if index == len(written) - 1 else f"{written[index].source}: "  # the command line needs no place
        for key in reversed(written[index].values):
            without = [Layer(layer.source, dict(layer.values)) for layer in written]
            value = without[index].values.pop(key)
            try:
                cfg = merge_layers(without)
                resolve_schedule(cfg)
                _build(cfg, request.eval_only)
            except (InputError, *UNUSABLE):
                continue
            return f"{source}{key} {shown(value)}"
    return request.config_file
