"""The JSONs of a training and of its evaluation, checked before either begins."""

from __future__ import annotations

import logging
from typing import Any

from hiera_det.data.coco.check import check_coco_json
from hiera_det.data.coco.compare import compare_splits, same_classes
from hiera_det.data.coco.findings import fix_command, listed
from hiera_det.data.coco.schema import CocoSummary
from hiera_det.errors import InputError

__all__ = ["check_splits", "require_masks"]

logger = logging.getLogger("hiera_det.data")


def check_splits(
    train_json: str | None,
    train_images: str | None,
    val_json: str | None = None,
    val_images: str | None = None,
    **options: Any,
) -> tuple[CocoSummary | None, CocoSummary | None]:
    """Check both JSONs, alone and beside each other; what they hold goes to the log.

    Args:
        train_json: COCO JSON to train on; none for no training.
        train_images: the folder that its file names are relative to.
        val_json: COCO JSON to evaluate on; none for no evaluation.
        val_images: the folder that its file names are relative to.
        options: of `check_coco_json`.

    Raises:
        InputError: one of them cannot be used, lacks its folder, or has other classes than the other.
    """
    _both_or_neither("train", train_json, train_images)
    _both_or_neither("val", val_json, val_images)
    train = check_coco_json(train_json, train_images, **options) if train_json and train_images else None
    val = check_coco_json(val_json, val_images, **options) if val_json and val_images else None
    if train and val:
        same_classes(train, val)
        for finding in compare_splits(train, val):
            logger.log(logging.INFO if finding.severity == "note" else logging.WARNING, str(finding))
    for summary in (train, val if val != train else None):
        if summary:
            logger.info(summary.table())
            for note in summary.notes:
                logger.warning(note)
    return train, val


def require_masks(summary: CocoSummary, because: str, way_out: str) -> None:
    """Refuse annotations without masks.

    Args:
        summary: of the JSON.
        because: why masks are needed, for the message.
        way_out: what is to be set to train without.

    Raises:
        InputError: some have none.
    """
    if summary.mask_format is None:
        total, without = sum(summary.instance_counts), summary.num_without_mask
        named = f": annotation {listed(summary.without_mask)}" if without < total else ""
        others = f", or leave them out by {fix_command(summary.path, summary.image_root)}"
        raise InputError(
            f"{summary.path}: {without} of {total} annotations have no segmentation, but {because}{named}; {way_out} "
            f"to train boxes only{others if named else ''}"
        )


def _both_or_neither(split: str, json: str | None, images: str | None) -> None:
    if json and not images:
        raise InputError(f"--{split}-json {json} needs --{split}-images, the folder its file_name entries start from")
    if images and not json:
        raise InputError(f"--{split}-images {images} needs --{split}-json, the COCO JSON that describes them")
