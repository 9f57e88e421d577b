"""The largest batch that a detector's training may meet, on which its memory is measured, and how many images fit."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from hiera_det.d2.train.memory import memory_told, told_images
from hiera_det.d2.train.trainer import Trainer
from hiera_det.data.coco.records import CocoRecords
from hiera_det.engine.failures import is_out_of_memory
from hiera_det.engine.loader import unwrap
from hiera_det.engine.processes import any_process
from hiera_det.engine.say import say
from hiera_det.engine.sharding import without_sync
from hiera_det.engine.talk import told_memory

__all__ = ["largest_batch", "largest_part", "with_largest_part"]

logger = logging.getLogger("hiera_det.setup")

Sides: TypeAlias = npt.NDArray[np.float64]

#: Part of the GPU's free memory that a trial may take: what libraries want of it differs from image to image.
ROOM = 0.9


def largest_batch(cfg: CfgNode, count: int) -> list[dict[str, Any]]:
    """So many images of the training data, the largest as the network sees them, as samples.

    Args:
        cfg: a checked config; of its sizes or scales of training images the largest is taken.
        count: may be more than there are.

    Raises:
        InputError: an image cannot be read.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.MIN_SIZE_TRAIN = (max(cfg.INPUT.MIN_SIZE_TRAIN),)
    cfg.INPUT.LSJ.SCALE = [max(cfg.INPUT.LSJ.SCALE)] * 2
    cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.ACCUMULATE = 0, 1
    data: Any = Trainer.build_train_loader(cfg).dataset
    sizes = _sizes(data.records)
    order = np.argsort(-_areas(cfg, sizes.min(axis=1), sizes.max(axis=1)), kind="stable")
    # of one orientation, as the loader's batches are: together, wide and high ones would be padded to squares
    is_wide = sizes[:, 1] > sizes[:, 0]
    alike = order[is_wide[order] == is_wide[order[0]]]
    places = itertools.islice(itertools.cycle(alike.tolist()), count)
    return unwrap([data[place, number] for number, place in enumerate(places)])  # type: ignore[no-any-return]


def _sizes(records: Any) -> Sides:
    """Heights and widths; of records that do not tell them all are alike."""
    if isinstance(records, CocoRecords):
        return records.sizes.astype(float)
    return np.array([(one.get("height", 1), one.get("width", 1)) for one in records], dtype=float)


def _areas(cfg: CfgNode, short: Sides, long: Sides) -> Sides:
    """Pixels of images of these sides, as the network sees them."""
    if cfg.INPUT.LSJ.ENABLED:
        side = cfg.INPUT.LSJ.SIZE
        scale = cfg.INPUT.LSJ.SCALE[1] * side / long
        return np.minimum(short * scale, side) * np.minimum(long * scale, side)
    scale = np.minimum(cfg.INPUT.MIN_SIZE_TRAIN[0] / short, cfg.INPUT.MAX_SIZE_TRAIN / long)
    return short * long * scale**2


def with_largest_part(cfg: CfgNode, resumed: bool = False) -> CfgNode:
    """The config with ``SOLVER.ACCUMULATE`` for as many images at a time as fit, where ``SOLVER.AUTO_BATCH`` asks.

    Called in every process; the answer is the same in all. A training that goes on has the number that it began with.

    Args:
        cfg: a checked config.
        resumed: whether a training in ``OUTPUT_DIR`` goes on.

    Raises:
        InputError: not even one image fits, or one cannot be read.
    """
    if not cfg.SOLVER.AUTO_BATCH:
        return cfg
    path = Path(cfg.OUTPUT_DIR) / "config.yaml"
    if resumed and path.is_file():
        return _with_accumulate(cfg, int(yaml.safe_load(path.read_text())["SOLVER"]["ACCUMULATE"]))
    if torch.device(cfg.MODEL.DEVICE).type != "cuda":
        if comm.is_main_process():
            say.info("SOLVER.AUTO_BATCH is for GPUs: SOLVER.ACCUMULATE stays %d", cfg.SOLVER.ACCUMULATE)
        return cfg
    part, share = largest_part(cfg, _gpu_memory), cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
    return _with_accumulate(cfg, share // part)


def _with_accumulate(cfg: CfgNode, accumulate: int) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.ACCUMULATE = accumulate
    cfg.freeze()
    return cfg


def _gpu_memory() -> tuple[float, float]:
    """Bytes that this process has held on its GPU, and those that it may hold."""
    free, _ = torch.cuda.mem_get_info()
    return torch.cuda.max_memory_reserved(), ROOM * (free + torch.cuda.memory_reserved())


def largest_part(cfg: CfgNode, memory: Callable[[], tuple[float, float]]) -> int:
    """How many of the largest images fit at a time: a divisor of a process's share of the batch.

    A model of its own takes a step of one image, for the optimizer's state, and then goes forward and back with more
    and more of them, until memory does not suffice.

    Args:
        cfg: a checked config.
        memory: gives the bytes that were held so far, and those that may be.

    Raises:
        InputError: not even one image fits, or one cannot be read.
    """
    share = cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
    trainer = Trainer(_with_accumulate(cfg, share))
    trainer.model.train()
    step, largest = trainer._trainer.step, 1
    with EventStorage(1), memory_told(cfg, 1, resumable=False):
        step([largest_batch(cfg, 1)] * share if comm.get_world_size() > 1 else [largest_batch(cfg, 1)])
        held, allowed = memory()
        for part in (number for number in range(2, share + 1) if share % number == 0):
            fits, used = _fits(trainer, largest_batch(cfg, part), memory)
            if not fits:
                break
            largest, held = part, used
    if comm.is_main_process():
        told = f"{told_memory(held / 2**20)} of {told_memory(allowed / 2**20)}", told_images(cfg)
        say.info(
            "SOLVER.AUTO_BATCH: %d images at a time take %s (%s): SOLVER.ACCUMULATE %d",
            largest,
            *told,
            share // largest,
        )
    return largest


def _fits(
    trainer: Trainer, batch: list[dict[str, Any]], memory: Callable[[], tuple[float, float]]
) -> tuple[bool, float]:
    """Whether every process has the memory for a forward and backward pass, and the bytes that this one has held."""
    model, failed = trainer.model, False
    try:
        with without_sync(model):
            trainer._trainer.step._backward(batch, [], 0)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        failed = True
    model.zero_grad(set_to_none=True)
    used, allowed = memory()
    return not any_process(failed or used > allowed, next(model.parameters()).device), used
