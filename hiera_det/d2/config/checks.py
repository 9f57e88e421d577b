"""Checks of keys that must agree with each other, or with the data, which no key's own kind says."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_NAMES

from hiera_det.d2.config.layers import get_value
from hiera_det.d2.config.model_keys import is_hiera
from hiera_det.engine.best import AUTO
from hiera_det.errors import InputError
from hiera_det.modeling.images import IMAGE_PIXELS

__all__ = ["check_best", "check_detector", "check_device", "check_keypoints", "check_pixels", "check_semantic"]

logger = logging.getLogger("hiera_det.config")

#: Channels of an image in each format, where they are not three.
CHANNELS = {"L": 1, "RGBA": 4, "CMYK": 4}
#: Norms that a detector of ours may have, of which PreciseBN needs one with statistics of batches.
NORMS = ("MODEL.RPN.NORM", "MODEL.ROI_BOX_HEAD.NORM", "MODEL.ROI_MASK_HEAD.NORM")

#: Parts for rotated boxes, which neither JSONs nor the evaluation here have.
ROTATED = {
    "MODEL.PROPOSAL_GENERATOR.NAME": "RRPN",
    "MODEL.ANCHOR_GENERATOR.NAME": "RotatedAnchorGenerator",
    "MODEL.ROI_HEADS.NAME": "RROIHeads",
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignRotated",
}


def check_detector(cfg: CfgNode) -> None:
    """Refuse a detector whose keys contradict each other.

    Raises:
        InputError: the keys and what to do.
    """
    if cfg.MODEL.BACKBONE.NAME == "build_resnet_backbone":
        raise InputError(
            "MODEL.BACKBONE.NAME: no config sets it, and detectron2's default is a ResNet: begin the config with "
            "_BASE_ and a file of configs/, or set build_hiera_fpn_backbone"
        )
    if is_hiera(cfg.MODEL.BACKBONE.NAME) and cfg.MODEL.FPN.NORM not in ("LN", ""):
        raise InputError(f'MODEL.FPN.NORM {cfg.MODEL.FPN.NORM!r}: choose LN or ""')
    check_pixels(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.INPUT.FORMAT)
    check_device(cfg)
    for key, value in ROTATED.items():
        if get_value(cfg, key) == value:
            raise InputError(f"{key} {value}: is for rotated boxes, and data are read with upright ones: leave it out")
    if cfg.TEST.PRECISE_BN.ENABLED and not any("BN" in str(get_value(cfg, key)) for key in NORMS):
        raise InputError(
            "TEST.PRECISE_BN.ENABLED True: this detector has no batch norms to make precise; set it to False"
        )
    if cfg.DATALOADER.SAMPLER_TRAIN == "RandomSubsetTrainingSampler" and "RANDOM_SUBSET_RATIO" not in cfg.DATALOADER:
        raise InputError("DATALOADER.SAMPLER_TRAIN RandomSubsetTrainingSampler: needs detectron2's main branch")
    generator, loaded = cfg.MODEL.PROPOSAL_GENERATOR.NAME, cfg.MODEL.LOAD_PROPOSALS
    if loaded is not (generator == "PrecomputedProposals"):
        raise InputError(
            f"MODEL.LOAD_PROPOSALS {loaded} and MODEL.PROPOSAL_GENERATOR.NAME {generator}: those of files need True "
            "and PrecomputedProposals, others False and RPN"
        )
    if cfg.MODEL.LOAD_PROPOSALS:
        for split in ("TRAIN", "TEST"):
            files, names = cfg.DATASETS[f"PROPOSAL_FILES_{split}"], cfg.DATASETS[split]
            if len(files) != len(names):
                raise InputError(
                    f"MODEL.LOAD_PROPOSALS True: DATASETS.PROPOSAL_FILES_{split} must name one file for each of the "
                    f"{len(names)} data sets of DATASETS.{split}, and names {len(files)}"
                )


def check_pixels(
    mean: Sequence[float],
    std: Sequence[float],
    image_format: str,
    names: Sequence[str] = ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "INPUT.FORMAT"),
) -> None:
    """Refuse a normalisation of other channels than the images', and tell of one in another order.

    Args:
        mean: of each channel.
        std: of each channel.
        image_format: of the images, such as "RGB".
        names: of the three.

    Raises:
        InputError: they are not as many.
    """
    of_mean, of_std, of_format = names
    if len(mean) != len(std):
        raise InputError(f"{of_mean} has {len(mean)} channels and {of_std} {len(std)}: give both as many")
    channels = CHANNELS.get(image_format, 3)
    if len(mean) != channels:
        raise InputError(f"{of_format} {image_format} has {channels} channels, and {of_mean} {len(mean)}: give as many")
    for pixels, order in ((IMAGE_PIXELS[0], "RGB"), (IMAGE_PIXELS[0][::-1], "BGR")):
        if tuple(mean) == pixels and order != image_format:
            logger.warning(
                "%s %s, and %s %s is of %s: set both; Hiera's published weights expect %s RGB and %s %s",
                *(of_format, image_format, of_mean, list(mean), order, of_format, of_mean, list(IMAGE_PIXELS[0])),
            )


def check_device(cfg: CfgNode) -> None:
    """Refuse a device that PyTorch, or this machine, does not have.

    Raises:
        InputError: those that there are.
    """
    try:
        device = torch.device(cfg.MODEL.DEVICE)
    except RuntimeError:
        device = torch.device("mps")  # as one that we do not use
    if device.type not in ("cpu", "cuda", "meta"):
        raise InputError(f"MODEL.DEVICE {cfg.MODEL.DEVICE}: choose cuda or cpu")
    gpus = torch.cuda.device_count()
    if device.type == "cuda" and gpus and (device.index or 0) >= gpus:
        raise InputError(f"MODEL.DEVICE {cfg.MODEL.DEVICE}: PyTorch finds {gpus} GPUs, counted from 0")


def check_best(cfg: CfgNode) -> None:
    """Refuse a metric that no evaluation has, which would be known after the first one only.

    Raises:
        InputError: those that there are.
    """
    best, tests = cfg.TEST.BEST, cfg.DATASETS.TEST
    if cfg.TEST.PATIENCE and not tests:
        raise InputError(f"TEST.PATIENCE {cfg.TEST.PATIENCE}: nothing is evaluated: give --val-json and --val-images")
    if best in ("", AUTO) or cfg.MODEL.META_ARCHITECTURE not in ("GeneralizedRCNN", "RetinaNet", "HieraFCOS"):
        return
    if not tests:
        raise InputError(f"TEST.BEST {best}: nothing is evaluated: give --val-json and --val-images, or leave it out")
    tasks = {"bbox": True, "segm": cfg.MODEL.MASK_ON, "keypoints": cfg.MODEL.KEYPOINT_ON}
    data = [f"{name}/" for name in tests] if len(tests) > 1 else [""]
    names = [f"{of}{task}/AP" for of in data for task, is_on in tasks.items() if is_on]
    plain = best.removeprefix("ema/")
    known = (plain == "val_loss" and cfg.TEST.VAL_LOSS) or any(
        re.fullmatch(re.escape(name) + "(50|75|s|m|l|-.+)?", plain) for name in names
    )
    if not known or (plain != best and not cfg.SOLVER.EMA_DECAY):
        raise InputError(
            f"TEST.BEST {best}: choose {' or '.join(names)}, with 50, 75, s, m, l or -CLASS after it, val_loss, or "
            "one of them with ema/ before it where SOLVER.EMA_DECAY is above 0"
        )


def check_semantic(cfg: CfgNode) -> None:
    """Refuse detectors that learn from semantic maps where the data have none; their names are registered by now.

    Raises:
        InputError: the data set.
    """
    kind = cfg.MODEL.META_ARCHITECTURE
    for name in cfg.DATASETS.TRAIN if kind in ("PanopticFPN", "SemanticSegmentor") else ():
        metadata = MetadataCatalog.get(name)
        if not (metadata.get("sem_seg_root") or metadata.get("stuff_classes")):
            raise InputError(
                f"MODEL.META_ARCHITECTURE {kind}: learns from semantic maps, and data set {name!r} has none: choose "
                "GeneralizedRCNN or RetinaNet for a COCO JSON of instances"
            )


def check_keypoints(cfg: CfgNode) -> None:
    """Refuse keypoints of data sets that do not describe them; their names are registered by now.

    Raises:
        InputError: the data set and what it lacks.
    """
    if not cfg.MODEL.KEYPOINT_ON:
        return
    count, sigmas = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, cfg.TEST.KEYPOINT_OKS_SIGMAS
    if cfg.TEST.AUG.ENABLED:
        raise InputError("TEST.AUG.ENABLED: detectron2's test-time augmentation has no keypoints; set it to False")
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        metadata = MetadataCatalog.get(name)
        if not (metadata.get("keypoint_names") and metadata.get("keypoint_flip_map") is not None):
            raise InputError(
                f"MODEL.KEYPOINT_ON True: data set {name!r} has no keypoint_names and keypoint_flip_map: give its JSON "
                'categories with "keypoints": ["nose", ...], or register it in Python with both, as detectron2 does '
                "keypoints_coco_2017_train, or set MODEL.KEYPOINT_ON False"
            )
        if len(metadata.keypoint_names) != count:
            raise InputError(
                f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS {count}: data set {name!r} has {len(metadata.keypoint_names)}"
            )
    names = [list(MetadataCatalog.get(name).keypoint_names) for name in cfg.DATASETS.TEST]
    if len(sigmas) != count and (sigmas or any(own != list(COCO_PERSON_KEYPOINT_NAMES) for own in names)):
        some = ", ".join(["0.05"] * min(count, 3)) + (", ..." if count > 3 else "")
        raise InputError(
            f"TEST.KEYPOINT_OKS_SIGMAS: give the {count} sigmas of the keypoints, COCO's are for a person's 17: "
            f'TEST.KEYPOINT_OKS_SIGMAS "[{some}]", larger where people agree less on the place'
        )
