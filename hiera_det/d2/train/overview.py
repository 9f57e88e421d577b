"""The one screen before the first step: what is trained, on what, how long, and where the files go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from hiera_det.d2.config.model_keys import is_hiera
from hiera_det.d2.config.schedule import count_images
from hiera_det.d2.data.datasets import dataset_categories
from hiera_det.d2.data.records import source_of
from hiera_det.d2.train.memory import told_images
from hiera_det.data.classes import listed
from hiera_det.data.coco.read import read_coco
from hiera_det.engine.best import AUTO
from hiera_det.engine.talk import Length, told_memory, told_place
from hiera_det.errors import printable

if TYPE_CHECKING:
    from hiera_det.d2.train.trainer import Trainer

__all__ = ["length_of", "overview"]

BYTES = 4  # of a float32


def length_of(cfg: CfgNode) -> Length:
    """How long a training is."""
    return Length(cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.IMAGES_PER_EPOCH)


def overview(cfg: CfgNode, trainer: Trainer) -> str:
    """The screen.

    Args:
        cfg: its schedule in iterations.
        trainer: with its weights.
    """
    rows = {
        "data": "; ".join(
            f"{split} {_data(name)}"
            for split, names in (("train", cfg.DATASETS.TRAIN), ("val", cfg.DATASETS.TEST))
            for name in names
        ),
        "classes": _classes(cfg.DATASETS.TRAIN[0]),
        "model": _model(cfg, trainer.model),
        "weights": trainer.checkpointer.origin,
        "images": f"{told_images(cfg)}; evaluated at {cfg.INPUT.MIN_SIZE_TEST}",
        "schedule": _schedule(cfg, trainer.start_iter),
        "learning": _learning(cfg),
        "evaluation": _evaluation(cfg),
        "machine": _machine(cfg, trainer),
        "memory": _memory(cfg, trainer.model),
        "files": f"{cfg.OUTPUT_DIR}: log.txt, config.yaml, metrics.json, model_*.pth",
    }
    return "\n".join(f"{word:12}{printable(text)}" for word, text in rows.items())


def _data(name: str) -> str:
    json, _ = source_of(name)
    contents = read_coco(json).contents if json else None
    if contents is None:
        return f"{count_images(name)} images of {name}"
    return f"{len(contents.images)} images, {len(contents.annotations)} objects, {json}"


def _classes(name: str) -> str:
    names = [category["name"] for category in dataset_categories(name)]
    return f"{len(names)}: {listed(names)}" if names else "their names are not known"


def _model(cfg: CfgNode, model: nn.Module) -> str:
    kind = cfg.MODEL.META_ARCHITECTURE
    if kind == "GeneralizedRCNN":
        parts = {"Mask": cfg.MODEL.MASK_ON, "Keypoint": cfg.MODEL.KEYPOINT_ON}
        kind = f"{' and '.join(name for name, is_on in parts.items() if is_on) or 'Faster'} R-CNN"
    trunk = f" on Hiera {cfg.MODEL.HIERA.SIZE}" if is_hiera(cfg.MODEL.BACKBONE.NAME) else ""
    learning = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in model.parameters())
    frozen = f", {(total - learning) / 1e6:.3g} million of them frozen" if learning < total else ""
    return f"{kind}{trunk}, {total / 1e6:.3g} million parameters{frozen}"


def _schedule(cfg: CfgNode, start: int) -> str:
    solver, length = cfg.SOLVER, length_of(cfg)
    epochs = f"{length.told_epochs} epochs, " if length.epoch else ""
    parts = f" in {solver.ACCUMULATE} parts" if solver.ACCUMULATE > 1 else ""
    going_on = f"; going on after {start}" if start else ""
    return f"{epochs}{solver.MAX_ITER} iterations of {solver.IMS_PER_BATCH} images{parts}{going_on}"


def _learning(cfg: CfgNode) -> str:
    solver, clip = cfg.SOLVER, cfg.SOLVER.CLIP_GRADIENTS
    name = {"ADAMW": "AdamW"}.get(solver.OPTIMIZER, solver.OPTIMIZER)
    words = [f"{name}, rate {solver.BASE_LR:.3g}", f"warm-up of {solver.WARMUP_ITERS} iterations"]
    if solver.STEPS and "Step" in solver.LR_SCHEDULER_NAME:
        places = (told_place(step, length_of(cfg), of_total=False) for step in solver.STEPS)
        words.append(f"falls at {', '.join(places)}")
    words.append(f"gradients clipped at {clip.CLIP_VALUE:g}" if clip.ENABLED else "gradients not clipped")
    return "; ".join([*words, f"average of {solver.EMA_DECAY:g}"] if solver.EMA_DECAY else words)


def _evaluation(cfg: CfgNode) -> str:
    if not cfg.DATASETS.TEST:
        return "none: there are no images to evaluate on"
    period, last = cfg.TEST.EVAL_PERIOD, cfg.SOLVER.MAX_ITER
    best = {AUTO: "the usual metric", "": "none"}.get(cfg.TEST.BEST, cfg.TEST.BEST)
    kept = f"best weights by {best}" + (f", patience {cfg.TEST.PATIENCE}" if cfg.TEST.PATIENCE else "")
    if not 0 < period < last:
        return f"at the end only (TEST.EVAL_EPOCHS 1: after each epoch); {kept}"
    every = told_place(period, length_of(cfg), of_total=False)
    unit, _, count = every.partition(" ")
    return f"{f'after each {unit}' if count == '1' else f'every {count} {unit}s'}; {kept}"


def _machine(cfg: CfgNode, trainer: Trainer) -> str:
    device = torch.device(cfg.MODEL.DEVICE)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    count = comm.get_world_size()
    processes = f"{count} processes, " if count > 1 else ""
    return f"{name}, {processes}{trainer.settings.precision}, {cfg.DATALOADER.NUM_WORKERS} workers read images"


def _memory(cfg: CfgNode, model: nn.Module) -> str:
    """What is known beforehand: weights, gradients, the optimizer's moments and the average."""
    copies = 2 + (2 if cfg.SOLVER.OPTIMIZER == "ADAMW" else 1) + (1 if cfg.SOLVER.EMA_DECAY else 0)
    fixed = copies * BYTES * sum(parameter.numel() for parameter in model.parameters()) / 2**20
    return f"{told_memory(fixed)} for weights and optimizer; all of it, and the time, after 3 steps (or by --dry-run)"
