"""Data sets for detectron2: your own COCO JSON by path (`hiera_det.d2.data.registered` is for those by name).

`own_data_config` checks the JSONs, registers them and writes what follows from them into the config (data set names,
number of classes, mask format). Names are derived from the files, so each process of a run that calls it with the same
paths registers the same names, and nothing is registered at import.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from hiera_det.d2.data.keypoints import keypoint_metadata, set_keypoints
from hiera_det.d2.data.records import load_records
from hiera_det.data.coco.findings import fix_command
from hiera_det.data.coco.schema import CocoSummary
from hiera_det.data.coco.splits import check_splits, require_masks
from hiera_det.data.coco.write import completed_copy
from hiera_det.data.images import MAX_PIXELS
from hiera_det.errors import InputError

__all__ = ["dataset_categories", "own_data_config", "register_json", "set_class_counts"]

logger = logging.getLogger("hiera_det.data")

#: Every key that holds the number of classes; all of them are set, whichever head the config builds.
CLASS_COUNT_KEYS = ("MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.RETINANET.NUM_CLASSES")


def register_json(name_prefix: str, json: str, image_root: str, summary: CocoSummary) -> str:
    """Register a checked COCO JSON with detectron2; registering the same one again changes nothing.

    The name is ``<name_prefix>_<file stem>_<8 hex digits>``; the digits stand for both paths and the JSON's time of
    change, so another file of the same name, or a newer one, gets its own name. Its records are made of what the check
    has read. Where the JSON lacks what pycocotools needs (``summary.gaps``), evaluators get a completed copy
    (`hiera_det.data.coco.write.completed_copy`).

    Returns:
        The data set's name, for ``DATASETS.TRAIN`` or ``DATASETS.TEST``.
    """
    path, root = os.path.abspath(json), os.path.abspath(image_root)
    key = f"{path}\n{root}\n{os.stat(path).st_mtime_ns}"
    stem = re.sub(r"\W+", "_", Path(path).stem)
    name = f"{name_prefix}_{stem}_{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:8]}"
    if name in DatasetCatalog.list():
        return name
    source = path
    if summary.gaps:
        source = completed_copy(path)
        logger.info("%s: %s; completed copy used instead: %s", path, ", ".join(summary.gaps), source)
    DatasetCatalog.register(name, partial(load_records, path, root))
    MetadataCatalog.get(name).set(
        json_file=source,
        image_root=root,
        evaluator_type="coco",
        thing_classes=list(summary.class_names),
        thing_dataset_id_to_contiguous_id={id_: index for index, id_ in enumerate(summary.category_ids)},
        **keypoint_metadata(path),
    )
    return name


def own_data_config(
    cfg: CfgNode,
    train_json: str | None = None,
    train_images: str | None = None,
    val_json: str | None = None,
    val_images: str | None = None,
    opts: Sequence[str] = (),
    *,
    check_files: bool = True,
) -> None:
    """Check and register own COCO JSONs and write what follows from them into ``cfg``.

    Call it in every process, after the command line's ``KEY VALUE`` list is merged. Without a val JSON
    ``DATASETS.TEST`` is empty, without a train JSON ``DATASETS.TRAIN`` is. With neither nothing changes.

    Args:
        cfg: an unfrozen config; sets ``DATASETS``, the class counts, ``INPUT.MASK_FORMAT`` and
            ``DATALOADER.FILTER_EMPTY_ANNOTATIONS`` (images without annotations are kept).
        train_json: COCO JSON to train on, given together with ``train_images``.
        train_images: the folder that its file names are relative to.
        val_json: COCO JSON to evaluate on, given together with ``val_images``.
        val_images: the folder that its file names are relative to.
        opts: the command line's ``KEY VALUE`` list: what it sets stays, and raises where the data contradict it.
        check_files: look at each image file too; False in workers whose parent process did.

    Raises:
        InputError: the data or a setting cannot be used; one line.
    """
    if not (train_json or train_images or val_json or val_images):
        return
    given = set(opts[0::2])
    for key, flag in (("DATASETS.TRAIN", "--train-json"), ("DATASETS.TEST", "--val-json")):
        if key in given:
            raise InputError(f"{key} cannot be set together with {flag} and its like; leave one of them out")
    train, val = check_splits(
        train_json,
        train_images,
        val_json,
        val_images,
        check_files=check_files,
        max_pixels=cfg.INPUT.get("MAX_PIXELS", MAX_PIXELS),
        skip_unreadable=cfg.INPUT.get("ON_BAD_IMAGE") == "skip",
    )
    summaries = [summary for summary in (train, val if val != train else None) if summary]
    if val:
        _check_evaluation(cfg, val)
    set_class_counts(cfg, len(summaries[0].class_names), summaries[0].path, given)
    _set_mask_format(cfg, summaries, given)
    set_keypoints(cfg, [summary.path for summary in summaries], given)
    if train and "DATALOADER.FILTER_EMPTY_ANNOTATIONS" not in given:
        cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
        if train.num_negatives:
            logger.info(
                "%d training images without annotations are kept as negatives "
                "(DATALOADER.FILTER_EMPTY_ANNOTATIONS True drops them)",
                train.num_negatives,
            )
    cfg.DATASETS.TRAIN = (_register(train),) if train else ()
    cfg.DATASETS.TEST = (_register(val),) if val else ()


def dataset_categories(name: str) -> list[dict[str, Any]]:
    """The classes of a registered data set in the order of their indices: ``{"id": id in the JSON, "name": name}``.

    Empty where the data set does not name its classes; ids are the indices where it has no others.
    """
    metadata = MetadataCatalog.get(name)
    names = metadata.get("thing_classes", ())
    ids = {index: id_ for id_, index in metadata.get("thing_dataset_id_to_contiguous_id", {}).items()}
    return [{"id": ids.get(index, index), "name": class_name} for index, class_name in enumerate(names)]


def _register(summary: CocoSummary) -> str:
    return register_json("hiera_det", summary.path, summary.image_root, summary)


def set_class_counts(cfg: CfgNode, count: int, source: str, given: Collection[str]) -> None:
    """Set the number of classes of the heads to that of the data; in place.

    Args:
        cfg: not frozen.
        count: of the data.
        source: the data, for the message.
        given: keys that the command line sets.

    Raises:
        InputError: a given key says another number.
    """
    for key in CLASS_COUNT_KEYS:
        *parents, leaf = key.split(".")
        node = cfg
        for parent in parents:
            node = node.get(parent, CfgNode())
        if leaf not in node:
            continue
        if key in given and node[leaf] != count:
            raise InputError(
                f"{key} {node[leaf]} contradicts {source}, which has {count} categories; "
                "leave the key out (it is taken from the data) or correct the data"
            )
        node[leaf] = count


def _set_mask_format(cfg: CfgNode, summaries: Sequence[CocoSummary], given: set[str]) -> None:
    if not cfg.MODEL.MASK_ON:
        return
    for summary in summaries:
        require_masks(summary, "MODEL.MASK_ON is True", "add MODEL.MASK_ON False")
    needed = "bitmask" if any(summary.mask_format == "bitmask" for summary in summaries) else "polygon"
    if "INPUT.MASK_FORMAT" not in given:
        cfg.INPUT.MASK_FORMAT = needed
    elif needed == "bitmask" and cfg.INPUT.MASK_FORMAT != "bitmask":
        raise InputError(
            f"INPUT.MASK_FORMAT {cfg.INPUT.MASK_FORMAT} contradicts {summaries[0].path}, which has RLE masks; "
            "leave the key out or set it to bitmask"
        )


def _check_evaluation(cfg: CfgNode, summary: CocoSummary) -> None:
    """Refuse image ids that the chosen evaluator cannot hold; say where a detector cannot give all objects."""
    if summary.fullest > cfg.TEST.DETECTIONS_PER_IMAGE:
        logger.warning(
            "%s: %r has %d objects, and TEST.DETECTIONS_PER_IMAGE is %d: the others count as missed",
            summary.path,
            summary.fullest_image,
            summary.fullest,
            cfg.TEST.DETECTIONS_PER_IMAGE,
        )
    if not summary.exact_image_ids and cfg.TEST.get("COCO_EVAL") == "faster-coco-eval":
        raise InputError(
            f"TEST.COCO_EVAL faster-coco-eval: it mixes up the image ids of {summary.path}, texts or beyond 2^53; "
            f"set pycocotools, or number the images by {fix_command(summary.path, summary.image_root)}"
        )
