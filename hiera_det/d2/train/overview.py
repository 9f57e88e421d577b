"""What the screen before the first step says of a detector (`hiera_det.engine.overview`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detectron2.config import CfgNode

from hiera_det.d2.config.model_keys import is_hiera
from hiera_det.d2.config.schedule import count_images
from hiera_det.d2.data.datasets import dataset_categories
from hiera_det.d2.data.records import source_of
from hiera_det.d2.train.memory import told_images
from hiera_det.data.classes import listed
from hiera_det.data.coco.read import read_coco
from hiera_det.engine.overview import ADAMW, Learning, overview
from hiera_det.engine.talk import Length, told_place

if TYPE_CHECKING:
    from hiera_det.d2.train.trainer import Trainer

__all__ = ["length_of", "told_overview"]


def length_of(cfg: CfgNode) -> Length:
    """How long a training is."""
    return Length(cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.IMAGES_PER_EPOCH)


def told_overview(cfg: CfgNode, trainer: Trainer) -> str:
    """The screen.

    Args:
        cfg: its schedule in iterations.
        trainer: with its weights.
    """
    told = {
        "data": "; ".join(
            f"{split} {_data(name)}"
            for split, names in (("train", cfg.DATASETS.TRAIN), ("val", cfg.DATASETS.TEST))
            for name in names
        ),
        "classes": _classes(cfg.DATASETS.TRAIN[0]),
        "model": _model(cfg),
        "weights": trainer.checkpointer.origin,
        "images": f"{told_images(cfg)}; evaluated at {cfg.INPUT.MIN_SIZE_TEST}",
        "evaluation": "" if cfg.DATASETS.TEST else "none: there are no images to evaluate on",
        "often": "TEST.EVAL_EPOCHS 1",
        "memory": " (or by --dry-run)",
        "files": "log.txt, config.yaml, metrics.json, model_*.pth",
    }
    length, start, period = length_of(cfg), trainer.start_iter, cfg.TEST.EVAL_PERIOD
    return overview(told, trainer.model, trainer.settings, length, _learning(cfg), start, period)


def _data(name: str) -> str:
    json, _ = source_of(name)
    contents = read_coco(json).contents if json else None
    if contents is None:
        return f"{count_images(name)} images of {name}"
    return f"{len(contents.images)} images, {len(contents.annotations)} objects, {json}"


def _classes(name: str) -> str:
    names = [category["name"] for category in dataset_categories(name)]
    return f"{len(names)}: {listed(names)}" if names else "their names are not known"


def _model(cfg: CfgNode) -> str:
    kind = cfg.MODEL.META_ARCHITECTURE
    if kind == "GeneralizedRCNN":
        parts = {"Mask": cfg.MODEL.MASK_ON, "Keypoint": cfg.MODEL.KEYPOINT_ON}
        kind = f"{' and '.join(name for name, is_on in parts.items() if is_on) or 'Faster'} R-CNN"
    return kind + (f" on Hiera {cfg.MODEL.HIERA.SIZE}" if is_hiera(cfg.MODEL.BACKBONE.NAME) else "")


def _learning(cfg: CfgNode) -> Learning:
    solver, clip, falls = cfg.SOLVER, cfg.SOLVER.CLIP_GRADIENTS, ""
    if solver.STEPS and "Step" in solver.LR_SCHEDULER_NAME:
        places = (told_place(step, length_of(cfg), of_total=False) for step in solver.STEPS)
        falls = f"falls at {', '.join(places)}"
    name = {"ADAMW": ADAMW}.get(solver.OPTIMIZER, solver.OPTIMIZER)
    return Learning(solver.BASE_LR, solver.WARMUP_ITERS, clip.CLIP_VALUE if clip.ENABLED else 0.0, name, falls)
