"""From a command line with a LazyConfig to checked settings and data.

What a LazyConfig has in common with the YAML configs is handed on under their keys (`NODES`), so that both kinds go
through the same checks and the same trainer; what a check says of a key is turned back into the LazyConfig's words.
Model, data loaders, optimizer and schedule are the LazyConfig's own nodes.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

from detectron2.config import CfgNode, get_cfg
from omegaconf import DictConfig, ListConfig, OmegaConf

from hiera_det.d2.config.keys import add_hiera_config
from hiera_det.d2.config.request import RunRequest
from hiera_det.d2.config.schedule import count_images
from hiera_det.d2.config.setup import check_training, check_work, choose_device
from hiera_det.d2.data.augmentation import FixedSizeCrop, ResizeScale
from hiera_det.d2.data.datasets import own_data_config
from hiera_det.d2.lazy.config import fits, kind, load_lazy_config, select, walk
from hiera_det.errors import InputError
from hiera_det.files import make_folder

__all__ = ["in_lazy_words", "setup_lazy_config", "shared_keys", "training_device"]

logger = logging.getLogger("hiera_det.setup")

#: Keys of the YAML configs and the nodes that say the same.
NODES = {
    "OUTPUT_DIR": "train.output_dir",
    "SEED": "train.seed",
    "MODEL.WEIGHTS": "train.init_checkpoint",
    "MODEL.DEVICE": "train.device",
    "MODEL.MASK_ON": "dataloader.train.mapper.use_instance_mask",
    "MODEL.HIERA.SQUARE_PAD": "model.backbone.square_pad",
    "MODEL.ROI_HEADS.NUM_CLASSES": "model.roi_heads.num_classes",
    "SOLVER.IMS_PER_BATCH": "dataloader.train.total_batch_size",
    "SOLVER.MAX_ITER": "train.max_iter",
    "SOLVER.LAYER_DECAY": "optimizer.params.layer_decay",
    "SOLVER.ACCUMULATE": "train.accumulate",
    "SOLVER.AMP.ENABLED": "train.amp.enabled",
    "SOLVER.AMP.PRECISION": "train.amp.precision",
    "SOLVER.PARALLEL": "train.parallel",
    "SOLVER.EMA_DECAY": "train.ema_decay",
    "SOLVER.CHECKPOINT_PERIOD": "train.checkpointer.period",
    "TEST.EVAL_PERIOD": "train.eval_period",
    "TEST.PICTURES": "train.pictures",
    "DATASETS.TRAIN": "dataloader.train.dataset.names",
    "DATASETS.TEST": "dataloader.test.dataset.names",
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": "dataloader.train.dataset.filter_empty",
    "INPUT.MASK_FORMAT": "dataloader.train.mapper.instance_mask_format",
    "INPUT.FORMAT": "dataloader.test.mapper.image_format",
}
#: Further settings that detectron2 or the trainer reads.
ALSO_READ = ("train.checkpointer", "train.checkpointer.max_to_keep", "train.cudnn_benchmark", "train.amp")
#: Written back into the LazyConfig where own data decide them; classes have nodes of their own.
FROM_DATA = ("DATASETS.TRAIN", "DATASETS.TEST", "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "INPUT.MASK_FORMAT")
#: Phrases of the checks that one node alone does not say.
PHRASES = {
    "MODEL.MASK_ON False": "model.roi_heads.mask_in_features=null dataloader.train.mapper.use_instance_mask=false "
    "dataloader.train.mapper.recompute_boxes=false",
    "INPUT.LSJ.SIZE": "crop_size of FixedSizeCrop",
    "INPUT.LSJ.SCALE": "min_scale and max_scale of ResizeScale",
    "INPUT.LSJ.ENABLED": "FixedSizeCrop",
    "SOLVER.OPTIMIZER": "optimizer",
}


def shared_keys(cfg: DictConfig) -> CfgNode:
    """The settings of a LazyConfig that `NODES` names, under the YAML configs' keys; the rest has its defaults.

    Raises:
        InputError: a node has a value of another kind than its key.
    """
    keys = get_cfg()
    add_hiera_config(keys)
    for key, node in NODES.items():
        value = select(cfg, node)
        if value is None:
            continue
        *parents, leaf = key.split(".")
        parent = _descend(keys, parents)
        if key.startswith("DATASETS."):
            parent[leaf] = _names(value)
        elif isinstance(value, ListConfig | DictConfig) or not fits(parent[leaf], value):
            raise InputError(f"{node} {value!r}: give {kind(parent[leaf])}")
        else:
            parent[leaf] = value
    _read_jitter(cfg, keys)
    _read_test_size(cfg, keys)
    return keys


def _descend(keys: CfgNode, parents: Sequence[str]) -> CfgNode:
    for parent in parents:
        keys = keys[parent]
    return keys


def _names(value: Any) -> tuple[str, ...]:
    """Data set names, which a LazyConfig may give as one or as a list."""
    return (value,) if isinstance(value, str) else tuple(value)


def _read_jitter(cfg: DictConfig, keys: CfgNode) -> None:
    """Large-scale jitter, for its checks."""
    for augmentation in select(cfg, "dataloader.train.mapper.augmentations") or ():
        target = augmentation.get("_target_") if isinstance(augmentation, DictConfig) else None
        if target is FixedSizeCrop:
            keys.INPUT.LSJ.ENABLED = True
            keys.INPUT.LSJ.SIZE = max(augmentation.crop_size)
        if target is ResizeScale:
            keys.INPUT.LSJ.SCALE = [augmentation.min_scale, augmentation.max_scale]


def _read_test_size(cfg: DictConfig, keys: CfgNode) -> None:
    """The size of test images, for the pictures at the end of training; none are drawn where it is not a resize."""
    augmentations = list(select(cfg, "dataloader.test.mapper.augmentations") or ())
    resize = augmentations[0] if len(augmentations) == 1 else None
    if not isinstance(resize, DictConfig) or "short_edge_length" not in resize:
        keys.TEST.PICTURES = 0
        return
    edge = resize.short_edge_length
    keys.INPUT.MIN_SIZE_TEST = edge if isinstance(edge, int) else edge[0]
    keys.INPUT.MAX_SIZE_TEST = resize.get("max_size", keys.INPUT.MAX_SIZE_TEST)


@contextlib.contextmanager
def in_lazy_words() -> Iterator[None]:
    """A context whose `InputError` names nodes in the place of the YAML configs' keys."""
    try:
        yield
    except InputError as error:
        message = str(error)
        for key, node in sorted((PHRASES | NODES).items(), key=lambda pair: -len(pair[0])):
            message = re.sub(rf"\b{re.escape(key)}\b(?!\.\w)", lambda _, node=node: node, message)  # type: ignore[misc]
        raise InputError(message) from None


def setup_lazy_config(request: RunRequest, *, check_files: bool = True) -> tuple[DictConfig, CfgNode]:
    """Everything that can be checked before a model is built; called in each process of a run.

    Args:
        request: what the command line, or a Python caller, asks for.
        check_files: look at each image file of own data too; False in workers whose parent process did.

    Returns:
        the LazyConfig, own data's names and classes in it, and its settings under the YAML configs' keys, frozen.

    Raises:
        InputError: something cannot be used; one line, in the LazyConfig's words.
    """
    cfg = load_lazy_config(request.config_file, request.opts)
    _warn_of_unread(cfg)
    with in_lazy_words():
        keys = shared_keys(cfg)
        given = _given(request)
        choose_device(keys, request.num_gpus, given)
        if keys.SOLVER.MAX_ITER < 1:
            raise InputError(f"SOLVER.MAX_ITER {keys.SOLVER.MAX_ITER}: give 1 or more")
        check_training(keys, request.world_size)
        make_folder(keys.OUTPUT_DIR, "OUTPUT_DIR")
        _use_own_data(cfg, keys, request, given, check_files)
        check_work(keys, request)
        if not request.eval_only:
            keys.SOLVER.IMAGES_PER_EPOCH = sum(count_images(name) for name in keys.DATASETS.TRAIN)
    keys.freeze()
    OmegaConf.update(cfg, NODES["MODEL.DEVICE"], keys.MODEL.DEVICE)
    return cfg, keys


def _warn_of_unread(cfg: DictConfig) -> None:
    """Name settings of ``train`` that nothing reads, such as those of detectron2's own tool."""
    names = (f"train.{name}" for name, _ in walk(OmegaConf.to_container(cfg.train, resolve=False)))
    unread = [name for name in names if name not in {*NODES.values(), *ALSO_READ}]
    if unread:
        logger.warning("not read by this tool, and without effect: %s", ", ".join(unread))


def training_device(request: RunRequest) -> str:
    """``train.device`` of a run, before its processes are started.

    Raises:
        InputError: see `setup_lazy_config`.
    """
    with in_lazy_words():
        keys = shared_keys(load_lazy_config(request.config_file, request.opts))
        choose_device(keys, request.num_gpus, _given(request))
    return str(keys.MODEL.DEVICE)


def _given(request: RunRequest) -> set[str]:
    """Keys of the YAML configs whose nodes the command line sets."""
    nodes = {override.partition("=")[0].lstrip("+") for override in request.opts}
    return {key for key, node in NODES.items() if node in nodes}


def _use_own_data(cfg: DictConfig, keys: CfgNode, request: RunRequest, given: set[str], check_files: bool) -> None:
    """Register own data and write what follows from them into both configs."""
    if not any(request.own_data.values()):
        return
    set_by_hand = [word for key in sorted(given) for word in (key, "")]
    own_data_config(keys, **request.own_data, opts=set_by_hand, check_files=check_files)
    for key in FROM_DATA:
        *parents, leaf = key.split(".")
        value = _descend(keys, parents)[leaf]
        if key.startswith("DATASETS."):
            value = value[0] if len(value) == 1 else list(value)
        OmegaConf.update(cfg, NODES[key], value)
    _set_class_count(cfg.model, keys.MODEL.ROI_HEADS.NUM_CLASSES)


def _set_class_count(model: DictConfig, count: int) -> None:
    """Set every ``num_classes`` that does not take its value from another."""
    for name, value in walk(OmegaConf.to_container(model, resolve=False)):
        if name.rpartition(".")[2] == "num_classes" and isinstance(value, int):
            OmegaConf.update(model, name, count)
