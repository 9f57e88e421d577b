"""A LazyConfig's settings under the YAML configs' keys, where they are checked, and back into its nodes: one table."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

from detectron2.config import CfgNode
from omegaconf import DictConfig, OmegaConf

from hiera_det.d2.config.kinds import as_given
from hiera_det.d2.config.layers import get_value, set_value
from hiera_det.d2.config.load import default_config
from hiera_det.d2.config.model_keys import META_ARCHITECTURES
from hiera_det.d2.config.unread import kind_of
from hiera_det.d2.config.words import renamed
from hiera_det.d2.data.augmentation import FixedSizeCrop, ResizeScale
from hiera_det.d2.lazy.files import walk
from hiera_det.d2.model.recompute import PARTS
from hiera_det.engine.machine import workers_by_cores
from hiera_det.errors import InputError

__all__ = ["CLIP_NORM", "NODES", "given_keys", "naming_nodes", "to_keys", "to_nodes"]

#: Keys of the YAML configs and the nodes that say the same.
NODES = {
    "OUTPUT_DIR": "train.output_dir",
    "SEED": "train.seed",
    "LOGGERS": "train.loggers",
    "MODEL.WEIGHTS": "train.init_checkpoint",
    "MODEL.DEVICE": "train.device",
    "MODEL.MASK_ON": "dataloader.train.mapper.use_instance_mask",
    "MODEL.KEYPOINT_ON": "dataloader.train.mapper.use_keypoint",
    "MODEL.HIERA.CHECKPOINT_STAGES": "train.recompute",
    "MODEL.HIERA.SQUARE_PAD": "model.backbone.square_pad",
    "MODEL.ROI_HEADS.NUM_CLASSES": "model.roi_heads.num_classes",
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": "model.roi_heads.keypoint_head.num_keypoints",
    "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE": "dataloader.train.dataset.min_keypoints",
    "SOLVER.BASE_LR": "optimizer.lr",
    "SOLVER.WEIGHT_DECAY": "optimizer.weight_decay",
    "SOLVER.IMS_PER_BATCH": "dataloader.train.total_batch_size",
    "SOLVER.MAX_ITER": "train.max_iter",
    "SOLVER.LAYER_DECAY": "optimizer.params.layer_decay",
    "SOLVER.ACCUMULATE": "train.accumulate",
    "SOLVER.AMP.ENABLED": "train.amp.enabled",
    "SOLVER.AMP.PRECISION": "train.amp.precision",
    "SOLVER.PARALLEL": "train.parallel",
    "SOLVER.EMA_DECAY": "train.ema_decay",
    "SOLVER.CHECKPOINT_PERIOD": "train.checkpointer.period",
    "SOLVER.KEEP_CHECKPOINTS": "train.checkpointer.max_to_keep",
    "SOLVER.SKIP_NONFINITE": "train.skip_nonfinite",
    "SOLVER.CHECKPOINT_MINUTES": "train.checkpointer.minutes",
    "TEST.BEST": "train.best",
    "TEST.PATIENCE": "train.patience",
    "TEST.VAL_LOSS": "train.val_loss",
    "TEST.EVAL_PERIOD": "train.eval_period",
    "TEST.KEYPOINT_OKS_SIGMAS": "dataloader.evaluator.kpt_oks_sigmas",
    "TEST.PICTURES": "train.pictures",
    "TEST.REPORT": "train.report",
    "TEST.NMS_ACROSS_CLASSES": "train.nms_across_classes",
    "DATASETS.TRAIN": "dataloader.train.dataset.names",
    "DATASETS.TEST": "dataloader.test.dataset.names",
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": "dataloader.train.dataset.filter_empty",
    "DATALOADER.NUM_WORKERS": "dataloader.train.num_workers",
    "INPUT.MASK_FORMAT": "dataloader.train.mapper.instance_mask_format",
    "INPUT.FORMAT": "dataloader.test.mapper.image_format",
    "INPUT.MAX_PIXELS": "dataloader.train.mapper.max_pixels",
    "INPUT.ON_BAD_IMAGE": "dataloader.train.mapper.on_bad_image",
}
LISTS = ("LOGGERS", "MODEL.HIERA.CHECKPOINT_STAGES")
CLASSES = "MODEL.ROI_HEADS.NUM_CLASSES"
KEYPOINTS = "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS"
TEST_WORKERS = "dataloader.test.num_workers"
#: The node of the largest norm of all gradients together.
CLIP_NORM = "train.clip_norm"
#: Phrases of the checks that no node alone says.
PHRASES = {
    "MODEL.MASK_ON False": "model.roi_heads.mask_in_features=null dataloader.train.mapper.use_instance_mask=false "
    "dataloader.train.mapper.recompute_boxes=false",
    "INPUT.LSJ.SIZE": "crop_size of FixedSizeCrop",
    "INPUT.LSJ.SCALE": "min_scale and max_scale of ResizeScale",
    "INPUT.LSJ.ENABLED": "FixedSizeCrop",
    "SOLVER.OPTIMIZER": "optimizer",
}


def nodes_of(lazy: DictConfig) -> dict[str, str]:
    """`NODES`, with the place of the number of classes in the LazyConfig's own detector."""
    of_one_stage = OmegaConf.select(lazy, NODES[CLASSES]) is None and OmegaConf.select(lazy, "model.num_classes")
    return NODES | ({CLASSES: "model.num_classes"} if of_one_stage else {})


def to_keys(lazy: DictConfig) -> CfgNode:
    """The settings of a LazyConfig under the keys of `NODES`; what it does not say has the keys' defaults."""
    keys = default_config()
    keys.SOLVER.STEPS = ()  # the schedule is the LazyConfig's own
    for key, node in nodes_of(lazy).items():
        value, default = OmegaConf.select(lazy, node), get_value(keys, key)
        if value is None:
            continue
        if key in LISTS or key.startswith("DATASETS."):
            value = (value,) if isinstance(value, str) else tuple(value)
        value = as_given(default, value)
        if not kind_of(key, default).accepts(value):
            raise InputError(kind_of(key, default).refusal(node, value))
        set_value(keys, key, value)
    if stages := [name for name in keys.MODEL.HIERA.CHECKPOINT_STAGES if name not in PARTS]:
        raise InputError(f"train.recompute {stages[0]}: model.backbone.trunk.use_checkpoint has the trunk's stages")
    _read_detector(lazy, keys)
    _read_images(lazy, keys)
    _read_clipping(lazy, keys)
    return keys


def _read_detector(lazy: DictConfig, keys: CfgNode) -> None:
    """Which of detectron2's detectors it is, where it is one of them."""
    target = lazy.model.get("_target_")
    kind = getattr(target, "__name__", str(target).rpartition(".")[2])
    if kind in META_ARCHITECTURES:
        keys.MODEL.META_ARCHITECTURE = kind
    if keys.MODEL.KEYPOINT_ON and OmegaConf.select(lazy, NODES[KEYPOINTS]) is None:
        raise InputError(f"{NODES['MODEL.KEYPOINT_ON']} true: there is no {NODES[KEYPOINTS]}, so nothing learns them")


def _read_clipping(lazy: DictConfig, keys: CfgNode) -> None:
    """The clipping of all gradients together, which a YAML config has several keys for."""
    norm = OmegaConf.select(lazy, CLIP_NORM)
    if norm is None:
        return
    if isinstance(norm, bool) or not isinstance(norm, int | float) or not 0 <= norm < math.inf:
        raise InputError(f"{CLIP_NORM} {norm}: give a number of at least 0")
    clip = keys.SOLVER.CLIP_GRADIENTS
    clip.ENABLED, clip.CLIP_TYPE, clip.NORM_TYPE, clip.CLIP_VALUE = norm > 0, "full_model", 2.0, float(norm or 1)


def _read_images(lazy: DictConfig, keys: CfgNode) -> None:
    """Large-scale jitter, for its checks, and the size of test images; no pictures are drawn where it is no resize."""
    train, test = (
        list(OmegaConf.select(lazy, f"dataloader.{part}.mapper.augmentations") or ()) for part in ("train", "test")
    )
    for node in train:
        target = node.get("_target_") if isinstance(node, DictConfig) else None
        if target is FixedSizeCrop:
            keys.INPUT.LSJ.ENABLED, keys.INPUT.LSJ.SIZE = True, max(node.crop_size)
        if target is ResizeScale:
            keys.INPUT.LSJ.SCALE = [node.min_scale, node.max_scale]
    if len(test) != 1 or not isinstance(test[0], DictConfig) or "short_edge_length" not in test[0]:
        keys.TEST.PICTURES = 0
        return
    edge = test[0].short_edge_length
    keys.INPUT.MIN_SIZE_TEST = edge if isinstance(edge, int) else edge[0]
    keys.INPUT.MAX_SIZE_TEST = test[0].get("max_size", keys.INPUT.MAX_SIZE_TEST)


def to_nodes(lazy: DictConfig, before: CfgNode, after: CfgNode) -> None:
    """Write into the LazyConfig, in place, what the checks changed of its settings."""
    for key, node in nodes_of(lazy).items():
        value = get_value(after, key)
        if value == get_value(before, key) or key == "MODEL.WEIGHTS":  # as the user wrote it, not where it lies here
            continue
        if OmegaConf.select(lazy, node.rpartition(".")[0]) is None:  # this detector has no such part
            continue
        if isinstance(value, tuple):
            value = value[0] if len(value) == 1 else list(value)
        OmegaConf.update(lazy, node, value)
    tests, most = OmegaConf.select(lazy, TEST_WORKERS), after.DATALOADER.NUM_WORKERS
    if isinstance(tests, int) and tests > most:
        lowered = most < before.DATALOADER.NUM_WORKERS
        OmegaConf.update(lazy, TEST_WORKERS, most if lowered else workers_by_cores(tests, TEST_WORKERS))
    # Every num_classes of objects that does not take its value from another.
    for name, value in walk(OmegaConf.to_container(lazy.model, resolve=False)):
        if name.rpartition(".")[2] == "num_classes" and isinstance(value, int) and not name.startswith("sem_seg_head."):
            OmegaConf.update(lazy.model, name, after.MODEL.ROI_HEADS.NUM_CLASSES)


def given_keys(overrides: Sequence[str]) -> tuple[str, ...]:
    """Keys whose nodes the command line sets."""
    nodes = {override.partition("=")[0].lstrip("+") for override in overrides}
    return tuple(key for key, node in NODES.items() if node in nodes)


def naming_nodes() -> contextlib.AbstractContextManager[None]:
    """A context whose `InputError` names nodes in the place of keys."""
    return renamed(PHRASES | NODES)
