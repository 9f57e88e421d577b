"""Values of a LazyConfig that are arguments of its callables: each of the kind that the YAML configs' key takes."""

from __future__ import annotations

import fnmatch
from typing import Any

from omegaconf import DictConfig, OmegaConf

from hiera_det.d2.config.checks import check_pixels
from hiera_det.d2.config.unread import READERS
from hiera_det.d2.lazy.files import walk
from hiera_det.errors import InputError

__all__ = ["ARGUMENTS", "check_values"]

#: Keys of the YAML configs, and the arguments that say the same, of whatever detector; ``*`` is any part of a name.
ARGUMENTS = {
    "INPUT.FORMAT": "model.input_format dataloader.*.image_format",
    "DATALOADER.NUM_WORKERS": "dataloader.*.num_workers",
    "MODEL.PIXEL_MEAN": "model.pixel_mean",
    "MODEL.PIXEL_STD": "model.pixel_std",
    "MODEL.FPN.OUT_CHANNELS": "model.backbone.out_channels",
    "MODEL.ANCHOR_GENERATOR.SIZES": "model.*anchor_generator.sizes",
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": "model.*anchor_generator.aspect_ratios",
    "MODEL.ANCHOR_GENERATOR.OFFSET": "model.*anchor_generator.offset",
    "MODEL.RPN.IN_FEATURES": "model.*proposal_generator.in_features model.*_in_features",
    "MODEL.RPN.IOU_THRESHOLDS": "model.*matcher*.thresholds",
    "MODEL.RPN.IOU_LABELS": "model.*matcher*.labels",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": "model.*.batch_size_per_image",
    "MODEL.RPN.POSITIVE_FRACTION": "model.*.positive_fraction",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": "model.*.pre_nms_topk.* model.*.post_nms_topk.*",
    "MODEL.RPN.NMS_THRESH": "model.*nms_thresh",
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": "model.*box_reg_loss_type",
    "MODEL.RPN.SMOOTH_L1_BETA": "model.*smooth_l1_beta",
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": "model.*min_box_size",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": "model.*box2box_transform.weights",
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "model.*pooler_type",
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": "model.*sampling_ratio",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "model.*score_thresh",
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": "model.*topk_candidates",
    "MODEL.RETINANET.FOCAL_LOSS_ALPHA": "model.*focal_loss_alpha",
    "MODEL.RETINANET.FOCAL_LOSS_GAMMA": "model.*focal_loss_gamma",
    "TEST.DETECTIONS_PER_IMAGE": "model.*test_topk_per_image model.*max_detections_per_image *.max_dets_per_image",
    "SOLVER.BETAS": "optimizer.betas",
    "SOLVER.MOMENTUM": "optimizer.momentum",
    "SOLVER.WEIGHT_DECAY_NORM": "optimizer.params.weight_decay_*",
    "SOLVER.WARMUP_FACTOR": "lr_multiplier.warmup_factor",
    "SOLVER.WARMUP_METHOD": "lr_multiplier.warmup_method",
    "SOLVER.WARMUP_ITERS": "lr_multiplier.warmup_length.iterations",
}
#: The channels of images, of the detector and of what reads them.
FORMATS = ("model.input_format", "dataloader.train.mapper.image_format", "dataloader.test.mapper.image_format")


def check_values(lazy: DictConfig) -> None:
    """Refuse values that a callable would take without a word and that the YAML configs' keys do not.

    Raises:
        InputError: the node, and what it takes; or the nodes that contradict each other.
    """
    for name, value in walk(OmegaConf.to_container(lazy, resolve=True)):
        for key, patterns in ARGUMENTS.items():
            kind = READERS[key][1]
            matches = any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns.split())
            if matches and value is not None and not kind.accepts(value):
                raise InputError(kind.refusal(name, value))
    formats: dict[str, Any] = {node: OmegaConf.select(lazy, node) for node in FORMATS}
    told = {node: value for node, value in formats.items() if value is not None}
    if len(set(told.values())) > 1:
        raise InputError(f"{', '.join(f'{node} {value}' for node, value in told.items())}: give the same for all")
    mean, std = lazy.model.get("pixel_mean"), lazy.model.get("pixel_std")
    if mean and std and told:
        check_pixels(mean, std, next(iter(told.values())), ("model.pixel_mean", "model.pixel_std", "image_format"))
