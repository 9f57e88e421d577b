"""The schedule: epochs become iterations, and another batch size moves the learning rate.

A value in a config is meant for the batch size in force where it is written. By layers (`hiera_det.d2.config.layers`):
what is written together with ``SOLVER.IMS_PER_BATCH`` or after it stands as given, what was inherited from a file with
another batch is scaled. Of two keys that say the same, such as ``SOLVER.EPOCHS`` and ``SOLVER.MAX_ITER``, the one of
the later layer counts.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from hiera_det.d2.config.layers import Layer, get_value, last_layer, set_value
from hiera_det.data.coco.read import read_coco
from hiera_det.engine.talk import say
from hiera_det.errors import InputError

__all__ = ["count_images", "resolve_schedule", "scale_to_processes", "settle_schedule"]

logger = logging.getLogger("hiera_det.schedule")

BATCH = "SOLVER.IMS_PER_BATCH"
LEARNING_RATE = "SOLVER.BASE_LR"
#: In iterations. Warm-up is not among them: it is for the optimizer's averages, which count steps, not images.
ITERATIONS = ("SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD")
#: Two ways to say the same.
ALTERNATIVES = (
    ("SOLVER.EPOCHS", "SOLVER.MAX_ITER"),
    ("SOLVER.MILESTONES", "SOLVER.STEPS"),
    ("SOLVER.CHECKPOINT_EPOCHS", "SOLVER.CHECKPOINT_PERIOD"),
    ("TEST.EVAL_EPOCHS", "TEST.EVAL_PERIOD"),
)


def settle_schedule(cfg: CfgNode, layers: Sequence[Layer]) -> None:
    """Decide between keys that say the same, and scale what was inherited to ``SOLVER.IMS_PER_BATCH``; in place.

    Raises:
        InputError: one file sets both of two such keys, or steps that its training does not reach.
    """
    for by_epochs, by_iterations in ALTERNATIVES:
        _settle_alternative(cfg, layers, by_epochs, by_iterations)
    _check_steps(cfg, layers)
    if cfg.SOLVER.SCALING == "none" or cfg.SOLVER.IMS_PER_BATCH < 1:
        return
    superseded = {by_iterations for by_epochs, by_iterations in ALTERNATIVES if get_value(cfg, by_epochs)}
    for key in (LEARNING_RATE, *ITERATIONS):
        meant_for = _batch_in_force(layers, key)
        if key not in superseded and meant_for and meant_for != cfg.SOLVER.IMS_PER_BATCH:
            _scale(cfg, key, cfg.SOLVER.IMS_PER_BATCH / meant_for, f"{meant_for} images")


def _settle_alternative(cfg: CfgNode, layers: Sequence[Layer], by_epochs: str, by_iterations: str) -> None:
    """Keep the one of two keys that the later layer sets."""
    last = {key: last_layer(layers, key) for key in (by_epochs, by_iterations)}
    both = last[by_epochs] == last[by_iterations] >= 0
    if both and layers[last[by_epochs]].values[by_epochs] and not layers[last[by_epochs]].is_whole:
        source = layers[last[by_epochs]].source
        raise InputError(f"{source}: {by_epochs} and {by_iterations} say the same in two ways; keep one of them")
    if last[by_iterations] > last[by_epochs]:
        set_value(cfg, by_epochs, [] if by_epochs == "SOLVER.MILESTONES" else 0.0)


def _check_steps(cfg: CfgNode, layers: Sequence[Layer]) -> None:
    """Refuse steps that fall, or that are written down with a training that ends before them."""
    solver, at = cfg.SOLVER, last_layer(layers, "SOLVER.STEPS")
    if list(solver.STEPS) != sorted(solver.STEPS):
        raise InputError(f"SOLVER.STEPS {solver.STEPS}: give rising iterations")
    length = last_layer(layers, "SOLVER.MAX_ITER")
    meant = not solver.EPOCHS and not solver.MILESTONES and at >= length >= 0 and not layers[at].is_whole
    if meant and solver.STEPS and solver.STEPS[-1] >= solver.MAX_ITER:
        raise InputError(
            f"SOLVER.STEPS {tuple(solver.STEPS)}: the training ends at SOLVER.MAX_ITER {solver.MAX_ITER}; give "
            'iterations before it, or SOLVER.MILESTONES "[0.9]" for a part of it'
        )


def _batch_in_force(layers: Sequence[Layer], key: str) -> int:
    """The batch size for which a key's value is meant; 0 where nothing says so."""
    last = last_layer(layers, key)
    if last < 0:
        return 0
    sizes = [(index, layer.values[BATCH]) for index, layer in enumerate(layers) if BATCH in layer.values]
    before = [size for index, size in sizes if index <= last]
    # A learning rate in a file that comes before any batch size belongs to the first that is named.
    return int(before[-1] if before else sizes[0][1] if sizes else 0)


def _scale(cfg: CfgNode, key: str, factor: float, meant_for: str) -> None:
    """Scale one value to ``factor`` times as many images per step, and say so."""
    value = get_value(cfg, key)
    new: Any
    if key == LEARNING_RATE:
        new = value * (math.sqrt(factor) if cfg.SOLVER.SCALING == "sqrt" else factor)
    elif isinstance(value, int):
        new = max(1, round(value / factor)) if value > 0 else value
    else:
        new = tuple(round(step / factor) for step in value)
    if new == value:
        return
    set_value(cfg, key, new)
    log = say if key == LEARNING_RATE else logger
    log.info(
        "%s %s is meant for %s: now %s for %d images (SOLVER.SCALING %s; none leaves it)",
        *(key, value, meant_for, new, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.SCALING),
    )


def scale_to_processes(cfg: CfgNode, processes: int) -> None:
    """Keep the images per process of ``SOLVER.REFERENCE_WORLD_SIZE`` and scale the schedule, as detectron2 does.

    Raises:
        InputError: the batch cannot be shared out among the processes it is meant for.
    """
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference in (0, processes):
        return
    if cfg.SOLVER.IMS_PER_BATCH % reference:
        raise InputError(
            f"SOLVER.REFERENCE_WORLD_SIZE {reference}: SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} is not a "
            "multiple of it"
        )
    cfg.SOLVER.IMS_PER_BATCH = cfg.SOLVER.IMS_PER_BATCH // reference * processes
    cfg.SOLVER.REFERENCE_WORLD_SIZE = processes
    logger.info("SOLVER.IMS_PER_BATCH is now %d, for %d processes", cfg.SOLVER.IMS_PER_BATCH, processes)
    if cfg.SOLVER.SCALING != "none":
        for key in (LEARNING_RATE, *ITERATIONS):
            _scale(cfg, key, processes / reference, f"{reference} processes")


def resolve_schedule(cfg: CfgNode) -> None:
    """Write epochs and parts of the training as iterations, in place; what is in iterations stays.

    Afterwards ``SOLVER.MAX_ITER``, ``SOLVER.STEPS``, ``SOLVER.CHECKPOINT_PERIOD`` and ``TEST.EVAL_PERIOD`` hold, and
    the keys in epochs are off, so that the config as saved means the same for everybody's detectron2.

    Raises:
        InputError: a value that cannot be used, or the training data do not say how many images they have.
    """
    solver = cfg.SOLVER
    if list(solver.MILESTONES) != sorted(solver.MILESTONES):
        raise InputError(f"SOLVER.MILESTONES {solver.MILESTONES}: give rising parts of the training between 0 and 1")
    if solver.EPOCHS or solver.CHECKPOINT_EPOCHS or cfg.TEST.EVAL_EPOCHS:
        solver.IMAGES_PER_EPOCH = solver.IMAGES_PER_EPOCH or sum(count_images(name) for name in cfg.DATASETS.TRAIN)
    if solver.EPOCHS:
        solver.MAX_ITER, epochs = _iterations(cfg, solver.EPOCHS), solver.EPOCHS
        logger.info(
            "SOLVER.EPOCHS %g of %d images: SOLVER.MAX_ITER %d", epochs, solver.IMAGES_PER_EPOCH, solver.MAX_ITER
        )
    if solver.MILESTONES:
        solver.STEPS = tuple(round(part * solver.MAX_ITER) for part in solver.MILESTONES)
    _leave_out_late_steps(cfg)
    if 2 * solver.WARMUP_ITERS > solver.MAX_ITER > 1:
        logger.warning(
            "SOLVER.WARMUP_ITERS %d: most of the run's %d iterations learn at a fraction of SOLVER.BASE_LR; set it to "
            "a tenth of them, %d",
            *(solver.WARMUP_ITERS, solver.MAX_ITER, solver.MAX_ITER // 10),
        )
    if solver.CHECKPOINT_EPOCHS:
        solver.CHECKPOINT_PERIOD = _iterations(cfg, solver.CHECKPOINT_EPOCHS)
    if cfg.TEST.EVAL_EPOCHS:
        cfg.TEST.EVAL_PERIOD = _iterations(cfg, cfg.TEST.EVAL_EPOCHS)
    solver.EPOCHS = solver.CHECKPOINT_EPOCHS = cfg.TEST.EVAL_EPOCHS = 0.0
    solver.MILESTONES = []


def _leave_out_late_steps(cfg: CfgNode) -> None:
    """Keep the steps at which a training can drop its rate: each once, after the first iteration and before the end."""
    solver = cfg.SOLVER
    inside = tuple(sorted({step for step in solver.STEPS if 0 < step < solver.MAX_ITER}))
    late = [step for step in solver.STEPS if step >= solver.MAX_ITER]
    if late and not solver.MILESTONES and solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        logger.warning(
            "SOLVER.STEPS %s: the training ends at SOLVER.MAX_ITER %d, so the learning rate drops %s; set SOLVER.STEPS "
            "too, or SOLVER.MILESTONES to parts of the training",
            *(tuple(solver.STEPS), solver.MAX_ITER, f"at {inside} only" if inside else "never"),
        )
    solver.STEPS = inside


def _iterations(cfg: CfgNode, epochs: float) -> int:
    """Steps in which so many epochs are seen."""
    return max(1, math.ceil(epochs * cfg.SOLVER.IMAGES_PER_EPOCH / cfg.SOLVER.IMS_PER_BATCH))


def count_images(name: str) -> int:
    """How many images the JSON of a registered data set lists; of other data sets, how many records they have.

    Raises:
        InputError: the JSON cannot be read, or has none.
    """
    path = MetadataCatalog.get(name).get("json_file")
    if not path:
        return len(DatasetCatalog.get(name))
    images = read_coco(path).top.get("images")
    if not isinstance(images, list) or not images:
        raise InputError(f"{path}: lists no images to count; give SOLVER.MAX_ITER")
    return len(images)
