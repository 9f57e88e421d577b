"""Data sets that are registered with detectron2, by its own names or in a user's code: checked like own JSONs.

A JSON that detectron2's own loader would read is checked as `hiera_det.data.coco.check` does it, and its records are
made of that one reading (`hiera_det.d2.data.records.load_records`): they are those of the loader, sooner.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from hiera_det.d2.data.keypoints import keypoint_metadata
from hiera_det.d2.data.records import load_records
from hiera_det.data.coco.check import check_coco_json
from hiera_det.data.coco.findings import fix_command
from hiera_det.data.coco.schema import CocoSummary
from hiera_det.data.images import MAX_PIXELS
from hiera_det.engine.processes import process_count
from hiera_det.errors import InputError

__all__ = ["check_registered"]

logger = logging.getLogger("hiera_det.data")

#: What ends pycocotools' evaluation, or lets it count a hit as a miss, after hours of training.
FATAL_GAPS = ("no iscrowd", "no area", "annotation id 0", "crowd without mask")

_taken_over: set[str] = set()


def check_registered(cfg: CfgNode, *, train: bool = True, test: bool = True, check_files: bool = True) -> None:
    """Refuse data set names that are not registered, or whose JSON or images cannot be trained or evaluated on.

    Args:
        cfg: the config with ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        train: look at ``DATASETS.TRAIN`` (not needed for evaluation alone).
        test: look at ``DATASETS.TEST``.
        check_files: look at each image file too; False in workers whose parent process did.

    Raises:
        InputError: the name and what is wrong, in one line.
    """
    wanted = [("DATASETS.TRAIN", cfg.DATASETS.TRAIN, train), ("DATASETS.TEST", cfg.DATASETS.TEST, test)]
    for key, names, needed in wanted:
        for name in names if needed else ():
            _check_name(key, name)
            _check_files(key, name)
            if _is_loaded_by_detectron2(name):
                summary = _check_json(cfg, name, check_files)
                if key == "DATASETS.TEST":
                    _check_gaps(name, summary)
            elif check_files and _is_function(name):
                _check_records(cfg, key, name)
    if both := [name for name in cfg.DATASETS.TEST if name in cfg.DATASETS.TRAIN and train and test]:
        logger.warning("data set %r is trained on and evaluated: AP then says nothing about other images", both[0])


def _is_loaded_by_detectron2(name: str) -> bool:
    """Whether it was registered by ``register_coco_instances``, and its JSON is a file of this machine."""
    is_theirs = getattr(DatasetCatalog[name], "__module__", "") == "detectron2.data.datasets.coco"
    json_file = MetadataCatalog.get(name).get("json_file")
    return (is_theirs or name in _taken_over) and bool(json_file) and os.path.isfile(json_file)


def _is_function(name: str) -> bool:
    """Whether a user's code makes its records of whatever it likes."""
    metadata = MetadataCatalog.get(name)
    return not metadata.get("json_file") and not metadata.get("evaluator_type")


def _check_records(cfg: CfgNode, key: str, name: str) -> None:
    """Refuse records of a function that would end the training or the evaluation, or count as others."""
    records, classes = DatasetCatalog.get(name), MetadataCatalog.get(name).get("thing_classes")
    where, tests = f"{key}: data set {name!r}", key == "DATASETS.TEST"
    if not isinstance(records, list) or not records:
        raise InputError(f"{where}: its function must give a list of records, and gives {str(records)[:40]}")
    if tests and not classes:
        raise InputError(f"{where}: has no names of classes: MetadataCatalog.get({name!r}).thing_classes = [...]")
    masks = cfg.INPUT.MASK_FORMAT if cfg.MODEL.MASK_ON else ""
    needed, seen = ("file_name", *(("image_id", "height", "width") if tests else ())), set()
    for number, record in enumerate(records):
        place = f"{where}: record {number} ({record.get('file_name')})"
        if lacking := [word for word in needed if word not in record]:
            raise InputError(f"{place} has no {lacking[0]}")
        if tests and record["image_id"] in seen:
            raise InputError(f"{place} has the image_id {record['image_id']} of another one: give each its own")
        seen.add(record.get("image_id"))
        for annotation in record.get("annotations", ()):
            if fault := _fault_of(annotation, len(classes or ()), masks):
                raise InputError(f"{place}: an annotation {fault}")


def _fault_of(annotation: Mapping[str, Any], classes: int, masks: str) -> str:
    """What is wrong with an annotation of a record, nothing where it is sound; ``masks`` is their format, or ""."""
    if lacking := [word for word in ("bbox", "bbox_mode", "category_id") if word not in annotation]:
        return f"has no {lacking[0]}"
    if classes and annotation["category_id"] not in range(classes):
        return f"has category_id {annotation['category_id']}, and there are {classes} classes, counted from 0"
    if masks and not annotation.get("iscrowd") and not len(annotation.get("segmentation", ())):
        return "has no segmentation, but MODEL.MASK_ON is True: add MODEL.MASK_ON False to train boxes only"
    if masks == "polygon" and isinstance(annotation.get("segmentation"), dict):
        return "has an RLE as segmentation: set INPUT.MASK_FORMAT bitmask"
    return ""


def _check_json(cfg: CfgNode, name: str, check_files: bool) -> CocoSummary:
    """Check the JSON, and let the data set's records be made of what was read."""
    metadata = MetadataCatalog.get(name)
    json_file, image_root = str(metadata.json_file), str(metadata.image_root)
    summary = check_coco_json(
        json_file,
        image_root,
        check_files=check_files,
        max_pixels=cfg.INPUT.get("MAX_PIXELS", MAX_PIXELS),
        skip_unreadable=cfg.INPUT.get("ON_BAD_IMAGE") == "skip",
    )
    # detectron2's loader would end in an assertion on this, after the model is built.
    own = metadata.get("thing_classes")
    if own is not None and list(own) != list(summary.class_names):
        raise InputError(
            f"data set {name!r}: it is registered with the classes {list(own)[:5]}, and {json_file} has "
            f"{list(summary.class_names[:5])} in ascending order of their ids; register it without thing_classes"
        )
    # Set now and not when the data are loaded: what checks classes comes before.
    ids = {id_: index for index, id_ in enumerate(summary.category_ids)}
    keypoints = {key: value for key, value in keypoint_metadata(json_file).items() if metadata.get(key) is None}
    metadata.set(thing_classes=list(summary.class_names), thing_dataset_id_to_contiguous_id=ids, **keypoints)
    _taken_over.add(name)
    DatasetCatalog.pop(name)
    DatasetCatalog.register(name, partial(load_records, json_file, image_root))
    return summary


def _check_gaps(name: str, summary: CocoSummary) -> None:
    """Refuse to evaluate on what pycocotools stumbles over; own JSONs by path get a completed copy instead."""
    gaps = [gap for gap in summary.gaps if gap in FATAL_GAPS]
    if gaps:
        raise InputError(
            f"DATASETS.TEST: in {summary.path} of data set {name!r} is what pycocotools stumbles over "
            f"({', '.join(gaps)}); register the copy that {fix_command(summary.path, summary.image_root)} writes, or "
            "give the JSON by --val-json"
        )


def _check_name(key: str, name: str) -> None:
    registered = DatasetCatalog.list()
    if name in registered:
        return
    close = difflib.get_close_matches(name, registered, n=3)
    hint = (
        f"did you mean {' or '.join(close)}?" if close else "own data go by --train-json, --train-images and the like"
    )
    if process_count() > 1:
        hint = "what a script registers is known to its processes where torchrun starts them"
    raise InputError(f"{key}: data set {name!r} is not registered; {hint}")


def _check_files(key: str, name: str) -> None:
    metadata = MetadataCatalog.get(name)
    root = os.environ.get("DETECTRON2_DATASETS", "datasets")
    advice = f"put it there, or set DETECTRON2_DATASETS (now {root!r}) to the folder that holds the data sets"
    json_file = getattr(metadata, "json_file", None)
    if json_file and not PathManager.isfile(json_file):
        raise InputError(f"{key}: JSON {json_file} of data set {name!r} does not exist; {advice}")
    image_root = getattr(metadata, "image_root", None)
    if image_root and not PathManager.isdir(image_root):
        raise InputError(f"{key}: image folder {image_root} of data set {name!r} does not exist; {advice}")
