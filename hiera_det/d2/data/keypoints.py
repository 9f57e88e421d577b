"""Keypoints of own data: what the categories of a JSON say of them, as detectron2's metadata have it."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode

from hiera_det.data.coco.findings import listed
from hiera_det.data.coco.read import read_coco
from hiera_det.errors import InputError

__all__ = ["keypoint_metadata", "set_keypoints"]

logger = logging.getLogger("hiera_det.data")

COUNT_KEY, LEAST_KEY = "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE"
#: Sides in the names of keypoints: left_eye, RightEar, l_hip, eye.R.
_SIDE = re.compile(r"left|right|(?<![a-z])[lr](?![a-z])", re.IGNORECASE)
_OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}


def keypoint_metadata(json: str) -> dict[str, Any]:
    """``keypoint_names`` and ``keypoint_flip_map`` of a JSON whose categories list keypoints; else nothing.

    Keypoints whose names differ in their side alone change places where an image is mirrored.
    """
    categories = read_coco(json).top.get("categories") or ()
    names = next((c["keypoints"] for c in categories if isinstance(c, dict) and _are_names(c.get("keypoints"))), ())
    if not names:
        return {}
    known = {name.casefold(): name for name in names}
    pairs = [(name, known.get(_mirrored(name).casefold(), name)) for name in names]
    return {"keypoint_names": list(names), "keypoint_flip_map": [pair for pair in pairs if pair[0] < pair[1]]}


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)


def _mirrored(name: str) -> str:
    return _SIDE.sub(lambda side: _OTHER[side[0].lower()], name)


def set_keypoints(cfg: CfgNode, jsons: Sequence[str], given: set[str]) -> None:
    """Write what follows from the keypoints of own data into ``cfg``; nothing under ``MODEL.KEYPOINT_ON False``.

    Args:
        cfg: not frozen; sets the number of keypoints, and keeps images without any as negatives.
        jsons: checked ones, that of training first.
        given: keys of the command line.

    Raises:
        InputError: keypoints are missing, or differ between categories, annotations or JSONs.
    """
    if not cfg.MODEL.KEYPOINT_ON:
        return
    all_names = [_names_of(json) for json in jsons]
    if all_names[0] != all_names[-1]:
        raise InputError(
            f"{jsons[-1]}: its keypoints {listed(all_names[-1])} are not those of {jsons[0]}, {listed(all_names[0])}"
        )
    names, head = all_names[0], cfg.MODEL.ROI_KEYPOINT_HEAD
    if COUNT_KEY in given and len(names) != head.NUM_KEYPOINTS:
        raise InputError(f"{COUNT_KEY} {head.NUM_KEYPOINTS}: {jsons[0]} has {len(names)}; leave the key out")
    head.NUM_KEYPOINTS = len(names)
    if LEAST_KEY not in given:
        head.MIN_KEYPOINTS_PER_IMAGE = 0
    for json in jsons:
        _check_annotations(json, names)
    _tell_mirroring(cfg, jsons[0], names)


def _names_of(json: str) -> list[str]:
    """The keypoints' names, of all categories that have some."""
    lists = {
        tuple(c["keypoints"]): c["name"] for c in read_coco(json).top["categories"] if _are_names(c.get("keypoints"))
    }
    if not lists:
        raise InputError(
            f'{json}: MODEL.KEYPOINT_ON True, but no category lists keypoints; add "keypoints": ["nose", ...] to it, '
            "or set MODEL.KEYPOINT_ON False"
        )
    if len(lists) > 1:
        raise InputError(
            f"{json}: categories {listed([*lists.values()])} have different keypoints, and a detector has one list for "
            "all; give them the same one"
        )
    (names,) = lists
    if len(set(names)) < len(names):
        raise InputError(f"{json}: names of keypoints repeat: {listed(names)}; make them unique")
    return list(names)


def _check_annotations(json: str, names: Sequence[str]) -> None:
    """Refuse keypoints of another number; say how many objects have none."""
    contents = read_coco(json).contents
    assert contents is not None  # it was checked
    annotations = contents.annotations
    for index, points in annotations.keypoints.items():
        if len(points) != 3 * len(names):
            raise InputError(
                f"{json}: annotation {annotations.ids[index]} has {len(points) // 3} keypoints, its category "
                f"{len(names)}; give all, [0, 0, 0] for one that is not labelled"
            )
    labelled = sum(any(points[2::3]) for points in annotations.keypoints.values())
    if not labelled:
        raise InputError(f"{json}: MODEL.KEYPOINT_ON True, but no annotation has a labelled keypoint; set it to False")
    if labelled < len(annotations):
        without = len(annotations) - labelled
        logger.info("%s: %d of %d annotations have no labelled keypoints", json, without, len(annotations))


def _tell_mirroring(cfg: CfgNode, json: str, names: Sequence[str]) -> None:
    """Say which keypoints change places in mirrored images; refuse one of a side without that of the other."""
    if cfg.INPUT.RANDOM_FLIP != "horizontal":
        return
    pairs = keypoint_metadata(json)["keypoint_flip_map"]
    paired = {name for pair in pairs for name in pair}
    for name in names:
        if re.search("left|right", name, re.IGNORECASE) and name not in paired:
            raise InputError(
                f"{json}: keypoint {name!r} has no partner {_mirrored(name)!r} with which it could change places in "
                "mirrored images; name them alike, or set INPUT.RANDOM_FLIP none"
            )
    if pairs:
        logger.info("keypoints that change places in mirrored images: %s", ", ".join(f"{a}/{b}" for a, b in pairs))
    else:
        logger.warning(
            "%s: no two keypoints are named as left and right, so all keep their names in mirrored images; where that "
            "is wrong, set INPUT.RANDOM_FLIP none",
            json,
        )
