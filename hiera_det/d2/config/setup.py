"""From a command line to a checked config: files, KEY VALUE pairs, device, output folder, data and weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode

from hiera_det.d2.config.checks import check_best, check_detector, check_keypoints, check_semantic
from hiera_det.d2.config.files import listed_configs
from hiera_det.d2.config.load import load_config
from hiera_det.d2.config.rehearsal import rehearse
from hiera_det.d2.config.request import RunRequest
from hiera_det.d2.config.schedule import count_images, resolve_schedule, scale_to_processes
from hiera_det.d2.config.training import train_settings
from hiera_det.d2.data.augmentation import check_lsj
from hiera_det.d2.data.batches import check_test_batch
from hiera_det.d2.data.datasets import dataset_categories, own_data_config, set_class_counts
from hiera_det.d2.data.proposals import proposal_files
from hiera_det.d2.data.registered import check_registered
from hiera_det.d2.predict.evaluation import check_coco_eval
from hiera_det.d2.predict.precision import check_autocast
from hiera_det.d2.train.checkpoint import last_checkpoint, local_weights
from hiera_det.engine.machine import workers_by_cores
from hiera_det.errors import InputError
from hiera_det.files import make_folder

__all__ = [
    "check_training",
    "check_work",
    "choose_device",
    "load_config",
    "settle_run",
    "setup_config",
    "training_device",
]

logger = logging.getLogger("hiera_det.setup")


def setup_config(request: RunRequest, *, check_files: bool = True) -> CfgNode:
    """Everything that can be checked before a model is built; called in each process of a run.

    Args:
        request: what the command line, or a Python caller, asks for.
        check_files: look at each image file of own data too; False in workers whose parent process did.

    Returns:
        the frozen config; ``MODEL.WEIGHTS`` is a local file or "".

    Raises:
        InputError: something cannot be used; one line.
    """
    if not request.config_file:
        raise InputError(f"--config-file is missing: give a config of your own, or one of {listed_configs('*.yaml')}")
    cfg = load_config(request.config_file, request.opts)
    check_detector(cfg)
    settle_run(cfg, request, request.opts[0::2], check_files=check_files)
    if check_files:
        rehearse(cfg, request)
    cfg.freeze()
    return cfg


def settle_run(cfg: CfgNode, request: RunRequest, given: Sequence[str], *, check_files: bool) -> None:
    """Check settings, whoever filled them, and complete them: device, own data, weights, schedule; in place.

    Args:
        cfg: not frozen.
        request: what is asked for.
        given: keys that the command line sets, which own data must not contradict.
        check_files: look at each image file of own data too.

    Raises:
        InputError: something cannot be used; one line, by the names of keys.
    """
    choose_device(cfg, request.num_gpus, given)
    scale_to_processes(cfg, request.world_size)
    asked, word = cfg.DATALOADER.NUM_WORKERS, "DATALOADER.NUM_WORKERS"
    cfg.DATALOADER.NUM_WORKERS = workers_by_cores(asked if word in given else None, word, asked)
    for check in (check_test_batch, check_autocast, check_coco_eval):
        check(cfg)
    check_training(cfg, request.world_size)
    if not request.dry_run:
        make_folder(cfg.OUTPUT_DIR, "OUTPUT_DIR")
    set_by_hand = [word for key in given for word in (key, "")]
    own_data_config(cfg, **request.own_data, opts=set_by_hand, check_files=check_files)
    check_work(cfg, request, check_files=check_files)
    for name in () if request.eval_only else cfg.DATASETS.TRAIN[:1]:
        if count := len(dataset_categories(name)):
            set_class_counts(cfg, count, f"data set {name!r}", given)
    if not request.eval_only:
        check_best(cfg)
    check_keypoints(cfg)
    check_semantic(cfg)
    if not request.eval_only:
        # Own data have few enough for their JSON to be read once more; COCO's is read where epochs are asked for.
        cfg.SOLVER.IMAGES_PER_EPOCH = sum(map(count_images, cfg.DATASETS.TRAIN)) if request.train_json else 0
        resolve_schedule(cfg)


def training_device(request: RunRequest) -> str:
    """``MODEL.DEVICE`` of a run, before its processes are started.

    Raises:
        InputError: see `setup_config`.
    """
    cfg = load_config(request.config_file, request.opts)
    choose_device(cfg, request.num_gpus, request.opts[0::2])
    return str(cfg.MODEL.DEVICE)


def choose_device(cfg: CfgNode, num_gpus: int, given: Sequence[str]) -> None:
    """Fall to the CPU, and there to float32, where there is no GPU and none was asked for by name; in place.

    Args:
        cfg: not frozen.
        num_gpus: ``--num-gpus``.
        given: keys that the command line sets.

    Raises:
        InputError: more GPUs are asked for than there are.
    """
    gpus, device = torch.cuda.device_count(), cfg.MODEL.DEVICE
    asked = "MODEL.DEVICE" in given
    if device != "cpu" and (num_gpus > max(1, gpus) or (asked and not gpus)):
        raise InputError(
            f"--num-gpus {num_gpus}, MODEL.DEVICE {device}: this machine has {gpus} GPUs that PyTorch can use; "
            "MODEL.DEVICE cpu runs without, in as many processes as --num-gpus says"
        )
    if not gpus and device == "cuda":
        logger.info("no GPU here: MODEL.DEVICE is set to cpu")
        cfg.MODEL.DEVICE = "cpu"
    amp = cfg.SOLVER.AMP
    if cfg.MODEL.DEVICE == "cpu" and amp.ENABLED and amp.PRECISION == "float16" and "SOLVER.AMP.ENABLED" not in given:
        logger.info("float16 is for GPUs: SOLVER.AMP.ENABLED is set to False")
        amp.ENABLED = False


def check_training(cfg: CfgNode, processes: int) -> None:
    """Refuse settings of the training loop that cannot be used.

    Raises:
        InputError: a key, or a batch that cannot be shared out evenly among so many processes.
    """
    train_settings(cfg, processes)
    check_lsj(cfg)


def check_work(cfg: CfgNode, request: RunRequest, *, check_files: bool = True) -> None:
    """Refuse a run without data or weights, and bring the weights to this machine; in place.

    Args:
        cfg: not frozen.
        request: what is asked for.
        check_files: look at each image file of registered data too.

    Raises:
        InputError: what is missing, or a file of proposals that is more than arrays.
    """
    check_registered(cfg, train=not request.eval_only, check_files=check_files)
    proposal_files(cfg, "TEST", cfg.DATASETS.TEST)
    if not request.eval_only and not cfg.DATASETS.TRAIN:
        raise InputError("nothing to train on: give --train-json and --train-images, or set DATASETS.TRAIN")
    if request.eval_only and not cfg.DATASETS.TEST:
        raise InputError("nothing to evaluate on: give --val-json and --val-images, or set DATASETS.TEST")
    if request.eval_only and not (request.resume or cfg.MODEL.WEIGHTS):
        raise InputError(
            "--eval-only: MODEL.WEIGHTS is empty; give a trained file, MODEL.WEIGHTS output/model_final.pth"
        )
    if request.resume:
        last_checkpoint(cfg.OUTPUT_DIR)
    else:
        cfg.MODEL.WEIGHTS = local_weights(cfg.MODEL.WEIGHTS)
