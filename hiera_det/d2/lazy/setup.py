"""From a request with a LazyConfig to checked settings and data; the checks are the YAML configs'."""

from __future__ import annotations

import logging

from detectron2.config import CfgNode
from omegaconf import DictConfig, OmegaConf

from hiera_det.d2.config.request import RunRequest
from hiera_det.d2.config.schedule import count_images
from hiera_det.d2.config.setup import choose_device, settle_run
from hiera_det.d2.lazy.files import load_lazy_config, walk
from hiera_det.d2.lazy.translate import NODES, given_keys, naming_nodes, to_keys, to_nodes
from hiera_det.errors import InputError

__all__ = ["setup_lazy_config", "training_device"]

logger = logging.getLogger("hiera_det.setup")

#: Further settings that detectron2 or the trainer reads.
ALSO_READ = ("train.checkpointer", "train.checkpointer.max_to_keep", "train.cudnn_benchmark", "train.amp")


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
    lazy = load_lazy_config(request.config_file, request.opts)
    _refuse_unread(lazy, request)
    with naming_nodes():
        keys = to_keys(lazy)
        before = keys.clone()
        settle_run(keys, request, given_keys(request.opts), check_files=check_files)
        if not request.eval_only:
            keys.SOLVER.IMAGES_PER_EPOCH = keys.SOLVER.IMAGES_PER_EPOCH or sum(map(count_images, keys.DATASETS.TRAIN))
    to_nodes(lazy, before, keys)
    keys.freeze()
    return lazy, keys


def _refuse_unread(lazy: DictConfig, request: RunRequest) -> None:
    """Name settings of ``train`` that nothing reads, such as those of detectron2's own tool.

    Raises:
        InputError: the command line sets one.
    """
    names = (f"train.{name}" for name, _ in walk(OmegaConf.to_container(lazy.train, resolve=False)))
    unread = [name for name in names if name not in {*NODES.values(), *ALSO_READ}]
    for override in request.opts:
        if override.partition("=")[0].lstrip("+") in unread:
            raise InputError(f"{override}: nothing here reads it; leave it out")
    if unread:
        logger.warning("not read by this tool, and without effect: %s", ", ".join(unread))


def training_device(request: RunRequest) -> str:
    """``train.device`` of a run, before its processes are started.

    Raises:
        InputError: see `setup_lazy_config`.
    """
    with naming_nodes():
        keys = to_keys(load_lazy_config(request.config_file, request.opts))
        choose_device(keys, request.num_gpus, given_keys(request.opts))
    return str(keys.MODEL.DEVICE)
