"""Training batches of a detector in an order that the seed and the step decide (`hiera_det.engine.order`).

detectron2's own stream cannot be taken up in its middle: it groups images by aspect ratio only once they are loaded.
Here the records' sizes decide, before anything is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, get_detection_dataset_dicts
from detectron2.data.build import trivial_batch_collator
from detectron2.data.samplers import RepeatFactorTrainingSampler
from torch.utils.data import DataLoader

from hiera_det.d2.data.proposals import proposal_files
from hiera_det.d2.data.records import CocoRecords, compact_records
from hiera_det.engine.loader import Seeded, keyed_loader
from hiera_det.engine.order import Indices, StreamOrder, shuffled
from hiera_det.engine.processes import process_count
from hiera_det.engine.randomness import derive
from hiera_det.errors import InputError

__all__ = ["build_train_loader", "train_loader_from_config"]

Epoch = Callable[[int], Indices]


def build_train_loader(
    dataset: Sequence[dict[str, Any]] | CocoRecords,
    *,
    mapper: Callable[[dict[str, Any]], Any],
    total_batch_size: int,
    accumulate: int = 1,
    seed: int = 0,
    epoch: Epoch | None = None,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """Endless batches for training, lists of what ``mapper`` gives; the arguments as of detectron2's function.

    Args:
        dataset: records; a list is kept serialised, so that worker processes share its memory.
        mapper: a record to a sample, or None where there is nothing to train on.
        total_batch_size: images of a step over all processes and parts.
        accumulate: parts of a step; a batch is ``total_batch_size / (accumulate * processes)`` images.
        seed: of order and augmentation.
        epoch: the images of an epoch for a seed; None for each once, shuffled.
        aspect_ratio_grouping: no batch mixes wide and high images.
        num_workers: processes that read.
        pin_memory: see PyTorch's loader.

    Raises:
        InputError: there are no images, or images without sizes are to be grouped.
    """
    if not len(dataset):
        raise InputError("DATASETS.TRAIN: has no images to train on (DATALOADER.FILTER_EMPTY_ANNOTATIONS drops some)")
    part = total_batch_size // (accumulate * process_count())
    groups = _aspect_groups(dataset) if aspect_ratio_grouping and part > 1 else ()
    order = StreamOrder(part, accumulate, seed, epoch or shuffled(len(dataset)), groups)
    records: Any = dataset if isinstance(dataset, torch.utils.data.Dataset) else DatasetFromList(dataset, copy=False)
    return keyed_loader(Seeded(records, mapper), order, num_workers, pin_memory, trivial_batch_collator, stay=False)


def _aspect_groups(records: Sequence[dict[str, Any]] | CocoRecords) -> list[int]:
    """0 for wide images and 1 for high ones, as detectron2 has it."""
    if isinstance(records, CocoRecords):
        heights, widths = records.sizes.T
        return (widths <= heights).astype(int).tolist()
    try:
        return [0 if record["width"] > record["height"] else 1 for record in records]
    except KeyError as error:
        raise InputError(
            f"DATALOADER.ASPECT_RATIO_GROUPING: the data set has images without {error}; set the key to False"
        ) from None


def train_loader_from_config(cfg: CfgNode, mapper: Callable[[dict[str, Any]], Any], seed: int) -> DataLoader[Any]:
    """The loader that ``DATASETS.TRAIN``, ``DATALOADER`` and ``SOLVER`` describe.

    Raises:
        InputError: ``DATALOADER.SAMPLER_TRAIN`` is unknown; see also `build_train_loader`.
    """
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
    filters = {"filter_empty": cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS, "min_keypoints": keypoints}
    proposals = proposal_files(cfg, "TRAIN", cfg.DATASETS.TRAIN)
    records: Any = None if proposals else compact_records(cfg.DATASETS.TRAIN, **filters)
    if records is None:
        records = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, **filters, proposal_files=proposals)
    return build_train_loader(
        records,
        mapper=mapper,
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        accumulate=cfg.SOLVER.ACCUMULATE,
        seed=seed,
        epoch=_epoch(cfg, records, seed),
        aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def _epoch(cfg: CfgNode, records: Sequence[dict[str, Any]], seed: int) -> Epoch:
    """What ``DATALOADER.SAMPLER_TRAIN`` makes of an epoch."""
    sampler = cfg.DATALOADER.SAMPLER_TRAIN
    if sampler == "TrainingSampler":
        return shuffled(len(records))
    if sampler == "RepeatFactorTrainingSampler":
        threshold = cfg.DATALOADER.REPEAT_THRESHOLD
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, threshold)
        return _repeated(factors.numpy())
    if sampler == "RandomSubsetTrainingSampler":
        count = int(len(records) * cfg.DATALOADER.RANDOM_SUBSET_RATIO)
        if not count:
            raise InputError(f"DATALOADER.RANDOM_SUBSET_RATIO {cfg.DATALOADER.RANDOM_SUBSET_RATIO}: leaves no image")
        subset = np.random.default_rng(derive(seed, 3)).permutation(len(records))[:count]
        return lambda number: np.random.default_rng(number).permutation(subset)
    raise InputError(
        f"DATALOADER.SAMPLER_TRAIN {sampler!r}: choose TrainingSampler, RepeatFactorTrainingSampler or "
        "RandomSubsetTrainingSampler"
    )


def _repeated(factors: np.ndarray[Any, np.dtype[np.float32]]) -> Epoch:
    """Epochs in which an image comes as often as its factor says, fractions by chance (LVIS, appendix B.2)."""

    def indices(seed: int) -> Indices:
        random = np.random.default_rng(seed)
        times = np.floor(factors + random.random(len(factors))).astype(np.int64)
        return random.permutation(np.repeat(np.arange(len(factors)), times))

    return indices
