"""Batches of images of like size, for evaluation and prediction: ``TEST.IMS_PER_BATCH``.

A detector pads the images of a batch to a common height and width. Images are therefore put in order of their shape,
and neighbours batched as long as little padding comes with it. How much padding changes a detector's results is in
``docs/high_resolution.md``; which images share a batch changes nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, get_detection_dataset_dicts
from detectron2.utils import comm
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from hiera_det.d2.data.augmentation import ResizeShortestEdge, resized_shape
from hiera_det.d2.data.mapper import build_test_mapper
from hiera_det.d2.data.proposals import proposal_files
from hiera_det.data.images import BadImageError
from hiera_det.engine.loader import keyed_loader, unwrap
from hiera_det.errors import InputError
from hiera_det.modeling.hiera import PATCH_STRIDE, UNIT_SIDES

__all__ = [
    "BucketSampler",
    "EvalLoader",
    "build_eval_loader",
    "build_test_loader",
    "check_test_batch",
    "make_batches",
    "model_input",
    "padded_size",
]

Size = tuple[int, int]
#: A record to a sample, or to None where its image cannot be read and is to be left out.
Mapper = Callable[[dict[str, Any]], dict[str, Any] | None]

#: Most pixels of a batch over those of its images alone.
MAX_PADDING = 1.1


def check_test_batch(cfg: CfgNode) -> None:
    """Refuse a batch without images.

    Raises:
        InputError: ``TEST.IMS_PER_BATCH`` is below 1.
    """
    if cfg.TEST.IMS_PER_BATCH < 1:
        raise InputError(f"TEST.IMS_PER_BATCH {cfg.TEST.IMS_PER_BATCH}: give the images per GPU, at least 1")


def padded_size(cfg: CfgNode, height: int, width: int) -> Size:
    """Height and width in which the trunk sees an image alone: resized by ``INPUT`` for tests, and padded."""
    if cfg.MODEL.HIERA.SQUARE_PAD:
        return cfg.MODEL.HIERA.SQUARE_PAD, cfg.MODEL.HIERA.SQUARE_PAD
    shortest = cfg.INPUT.MIN_SIZE_TEST  # 0: images stay as they are
    if shortest:
        height, width = resized_shape(height, width, shortest, cfg.INPUT.MAX_SIZE_TEST)
    step = PATCH_STRIDE * UNIT_SIDES[0]
    return math.ceil(height / step) * step, math.ceil(width / step) * step


def model_input(cfg: CfgNode, image: npt.NDArray[Any]) -> Tensor:
    """An image ``[H, W, channels]`` resized by ``INPUT`` for tests: float32 ``[channels, H', W']``, 0-255."""
    resize = ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST)
    resized = resize.get_transform(image).apply_image(image)
    return torch.as_tensor(np.ascontiguousarray(resized.astype("float32").transpose(2, 0, 1)))


def make_batches(sizes: Sequence[Size], batch_size: int) -> list[list[int]]:
    """Share images out into batches; each image is in one batch.

    Args:
        sizes: height and width of each image, as `padded_size` gives them.
        batch_size: most images in a batch; 1 keeps the images' order.

    Returns:
        indices of the images; the batches with the most pixels first, so that memory that does not suffice shows at
        once.
    """
    if batch_size == 1:
        return [[index] for index in range(len(sizes))]
    # Resized to a shortest edge, images of neighbouring aspect ratios are neighbours in height and width too.
    order = sorted(range(len(sizes)), key=lambda index: (sizes[index][0] / sizes[index][1], sizes[index]))
    batches: list[list[int]] = []
    for index in order:
        if batches and len(batches[-1]) < batch_size and _padding(sizes, [*batches[-1], index]) <= MAX_PADDING:
            batches[-1].append(index)
        else:
            batches.append([index])
    return sorted(batches, key=lambda batch: -_pixels(sizes, batch))


def _pixels(sizes: Sequence[Size], batch: Sequence[int]) -> int:
    """Pixels of a batch, padding included."""
    return len(batch) * max(sizes[index][0] for index in batch) * max(sizes[index][1] for index in batch)


def _padding(sizes: Sequence[Size], batch: Sequence[int]) -> float:
    """Pixels of a batch over those of its images alone."""
    return _pixels(sizes, batch) / sum(height * width for height, width in (sizes[index] for index in batch))


class BucketSampler(Sampler[list[int]]):
    """The batches of one process out of all; the processes together see each image exactly once.

    Args:
        sizes: of all images, see `make_batches`.
        batch_size: most images in a batch.
        rank: number of this process.
        world_size: number of processes.
    """

    def __init__(self, sizes: Sequence[Size], batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        # Dealt out in turn, from large to small, so that the processes have about as much to do.
        self._batches = make_batches(sizes, batch_size)[rank::world_size]

    def __iter__(self) -> Iterator[list[int]]:
        """The batches, as lists of indices."""
        return iter(self._batches)

    def __len__(self) -> int:
        """How many batches there are."""
        return len(self._batches)


class EvalImages(Dataset[Any]):
    """The samples of an evaluation, without detectron2's random stand-in for one that cannot be read.

    Args:
        records: detectron2's, one per image.
        mapper: a record to a sample, or None.
    """

    def __init__(self, records: Sequence[dict[str, Any]], mapper: Mapper) -> None:
        self.records, self.mapper = DatasetFromList(list(records), copy=False), mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any] | BadImageError | None:
        """A sample; the error itself, since one raised in a worker process becomes a traceback."""
        try:
            return self.mapper(self.records[index])
        except BadImageError as error:
            return error


class EvalLoader:
    """Batches of an evaluation; images that cannot be read are left out, or end it in one line.

    Args:
        loader: its batches are lists of what `EvalImages` gives.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        self.dataset = loader.dataset

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for batch in self.loader:
            for sample in unwrap(batch):
                if isinstance(sample, BadImageError):
                    raise sample
            if samples := [sample for sample in batch if sample is not None]:
                yield samples


def build_test_loader(cfg: CfgNode, dataset_name: str, mapper: Mapper | None = None) -> EvalLoader:
    """The images of an evaluation, in batches of ``TEST.IMS_PER_BATCH`` of like size.

    Args:
        cfg: the config.
        dataset_name: a registered data set.
        mapper: a record to a sample; None for `build_test_mapper`'s.

    Raises:
        InputError: the batch is below 1, or the data set does not say its images' sizes.
    """
    check_test_batch(cfg)
    batch_size = cfg.TEST.IMS_PER_BATCH
    proposals = proposal_files(cfg, "TEST", [dataset_name])
    records = get_detection_dataset_dicts([dataset_name], filter_empty=False, proposal_files=proposals)
    sizes = [(1, 1)] * len(records)
    if batch_size > 1:
        sizes = [_padded_record(cfg, record, dataset_name) for record in records]
    batches = BucketSampler(sizes, batch_size, comm.get_rank(), comm.get_world_size())
    return _eval_loader(records, mapper or build_test_mapper(cfg), batches, cfg.DATALOADER.NUM_WORKERS)


def build_eval_loader(
    dataset: Sequence[dict[str, Any]], *, mapper: Mapper, batch_size: int = 1, num_workers: int = 0
) -> EvalLoader:
    """The same for a LazyConfig, in the data set's order, with the arguments of detectron2's own."""
    batches = BucketSampler([(1, 1)] * len(dataset), batch_size, comm.get_rank(), comm.get_world_size())
    return _eval_loader(dataset, mapper, batches, num_workers)


def _eval_loader(records: Sequence[dict[str, Any]], mapper: Mapper, batches: BucketSampler, workers: int) -> EvalLoader:
    return EvalLoader(keyed_loader(EvalImages(records, mapper), batches, workers, False, list, stay=False))


def _padded_record(cfg: CfgNode, record: dict[str, Any], dataset_name: str) -> Size:
    """`padded_size` of a record's image."""
    try:
        return padded_size(cfg, record["height"], record["width"])
    except KeyError as error:
        raise InputError(
            f"TEST.IMS_PER_BATCH {cfg.TEST.IMS_PER_BATCH}: data set {dataset_name!r} has images without {error}, by "
            "which they are batched; set it to 1"
        ) from None
