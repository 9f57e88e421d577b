"""A run of a LazyConfig, from what is asked for to its end; the checks are the YAML configs', in its own words."""

from __future__ import annotations

import logging
from dataclasses import replace

from detectron2.config import CfgNode
from omegaconf import DictConfig, OmegaConf

from hiera_det.d2.config.checks import check_device
from hiera_det.d2.config.request import RunRequest
from hiera_det.d2.config.schedule import count_images
from hiera_det.d2.config.setup import choose_device, settle_run
from hiera_det.d2.lazy.files import load_lazy_config, walk
from hiera_det.d2.lazy.trainer import trainer_class
from hiera_det.d2.lazy.translate import CLIP_NORM, NODES, given_keys, naming_nodes, to_keys, to_nodes
from hiera_det.d2.lazy.values import check_values
from hiera_det.d2.train.launch import launch_tool
from hiera_det.d2.train.run import LOGGERS, begin_logging, run_detector
from hiera_det.engine.session import process_kept
from hiera_det.engine.stop import stoppable
from hiera_det.errors import InputError

__all__ = ["setup_lazy_config", "start", "train_by_lazy_config"]

logger = logging.getLogger("hiera_det.setup")

ALSO_READ = (CLIP_NORM, "train.checkpointer", "train.cudnn_benchmark", "train.amp")  # by detectron2 or the trainer


def start(request: RunRequest) -> None:
    """Train, or evaluate only; see `hiera_det.d2.train.run.start`."""
    with naming_nodes():
        keys = to_keys(load_lazy_config(request.config_file, request.opts))
        choose_device(keys, request.num_gpus, given_keys(request.opts))
        device = str(keys.MODEL.DEVICE)
        launch_tool(train_by_lazy_config, request, check=lambda: setup_lazy_config(request), device=device)


def train_by_lazy_config(request: RunRequest, check_files: bool) -> None:
    """Train, or evaluate only; called in every process, with whether to look at each image file of own data."""
    with process_kept(*LOGGERS), stoppable() as stop, naming_nodes():
        begin_logging()
        lazy, cfg = setup_lazy_config(request, check_files=check_files)
        keys = {node: key for key, node in NODES.items()}
        request = replace(request, allow_changed=tuple(keys.get(word, word) for word in request.allow_changed))
        run_detector(cfg, request, stop, trainer_class(lazy), lazy, given_keys(request.opts))


def setup_lazy_config(request: RunRequest, *, check_files: bool = True) -> tuple[DictConfig, CfgNode]:
    """As `hiera_det.d2.config.setup.setup_config`, of which the arguments and errors are.

    Returns:
        the LazyConfig, own data's names and classes in it, and its settings under the YAML configs' keys, frozen.
    """
    lazy = load_lazy_config(request.config_file, request.opts)
    _refuse_unread(lazy, request)
    check_values(lazy)
    with naming_nodes():
        keys = to_keys(lazy)
        check_device(keys)
        before = keys.clone()
        settle_run(keys, request, given_keys(request.opts), check_files=check_files)
        if not request.eval_only:
            keys.SOLVER.IMAGES_PER_EPOCH = keys.SOLVER.IMAGES_PER_EPOCH or sum(map(count_images, keys.DATASETS.TRAIN))
    to_nodes(lazy, before, keys)
    keys.freeze()
    return lazy, keys


def _refuse_unread(lazy: DictConfig, request: RunRequest) -> None:
    """Name settings of ``train`` that nothing reads, such as those of detectron2's own tool; refuse them in a pair."""
    names = (f"train.{name}" for name, _ in walk(OmegaConf.to_container(lazy.train, resolve=False)))
    unread = [name for name in names if name not in {*NODES.values(), *ALSO_READ}]
    for override in request.opts:
        if override.partition("=")[0].lstrip("+") in unread:
            raise InputError(f"{override}: nothing here reads it; leave it out")
    if unread:
        logger.warning("not read by this tool, and without effect: %s", ", ".join(unread))
