"""From a command line to a checked config: files, KEY VALUE pairs, device, output folder, data and weights."""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg

from hiera_det.d2.config.keys import add_hiera_config
from hiera_det.d2.config.layers import read_layers
from hiera_det.d2.config.request import RunRequest
from hiera_det.d2.config.schedule import count_images, resolve_schedule, scale_to_processes, settle_schedule
from hiera_det.d2.data.augmentation import check_lsj, settle_input
from hiera_det.d2.data.batches import check_test_batch
from hiera_det.d2.data.datasets import check_registered, own_data_config
from hiera_det.d2.predict.evaluation import check_coco_eval, check_tta
from hiera_det.d2.predict.precision import check_autocast
from hiera_det.d2.train.checkpoint import last_checkpoint, local_weights
from hiera_det.d2.train.step import check_precision
from hiera_det.engine.ema import check_ema_decay
from hiera_det.engine.sharding import check_parallel
from hiera_det.errors import InputError
from hiera_det.files import make_folder
from hiera_det.modeling.variants import get_variant

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


def load_config(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """Read a YAML config with its bases and apply KEY VALUE pairs.

    Args:
        config_file: path of the YAML file; "" for detectron2's defaults.
        opts: keys and values in turn.

    Returns:
        the config, not frozen.

    Raises:
        InputError: file, key or value cannot be used; the nearest key is named for an unknown one.
    """
    cfg = get_cfg()
    add_hiera_config(cfg)
    if config_file:
        if not os.path.isfile(config_file):
            raise InputError(f"--config-file {config_file}: no such file")
        _merge(cfg, config_file, lambda: _merge_file(cfg, config_file))
    flags = [word for word in opts[0::2] if word.startswith("--")]
    if flags:
        raise InputError(f"flag {flags[0]} stands after the KEY VALUE pairs: put flags before them")
    if len(opts) % 2:
        raise InputError(f"{opts[-1]}: KEY VALUE pairs come in twos, and the last key has no value")
    for key, value in zip(opts[0::2], opts[1::2], strict=True):
        _merge(cfg, f"{key} {value}", partial(cfg.merge_from_list, [key, _as_float(cfg, key, value)]))
    layers = read_layers(config_file, opts)
    settle_schedule(cfg, layers)
    settle_input(cfg, layers)
    return cfg


def _merge_file(cfg: CfgNode, path: str) -> None:
    """detectron2's merge; a whole number may stand where the default is a fraction (``EPOCHS: 50``)."""
    loaded = cfg.load_yaml_with_base(path, allow_unsafe=False)
    if loaded.get("VERSION") != cfg.VERSION:  # an older layout, which detectron2 translates, or none
        cfg.merge_from_file(path, allow_unsafe=False)
        return
    _whole_to_float(loaded, cfg)
    cfg.merge_from_other_cfg(CfgNode(loaded))


def _whole_to_float(loaded: dict[str, Any], defaults: CfgNode) -> None:
    """Make whole numbers fractions, in place, where the defaults are."""
    for key, value in loaded.items():
        default = defaults.get(key)
        if isinstance(value, dict) and isinstance(default, CfgNode):
            _whole_to_float(value, default)
        elif type(value) is int and isinstance(default, float):
            loaded[key] = float(value)


def _as_float(cfg: CfgNode, key: str, value: str) -> str | float:
    """The same for a value of the command line."""
    node: Any = cfg
    for part in key.split("."):
        node = node.get(part) if isinstance(node, CfgNode) else None
    return float(value) if isinstance(node, float) and re.fullmatch(r"[+-]?\d+", str(value)) else value


def _merge(cfg: CfgNode, source: str, merge: Any) -> None:
    """Run one of yacs's merges and say in one line what it did not like."""
    try:
        merge()
    except yaml.YAMLError as error:
        raise InputError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise InputError(f"{source}: cannot read {error.filename}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{source}: not a text file in UTF-8") from None
    except (TypeError, AttributeError) as error:
        # yacs looks for keys inside whatever it finds.
        raise InputError(f"{source}: a single value stands where keys belong, or the reverse ({error})") from None
    except (AssertionError, KeyError, ValueError) as error:
        # yacs says the same of an unknown key in a KeyError for a file and in an AssertionError for a list.
        reason = " ".join(str(error.args[0] if error.args else error).split())
        unknown = re.fullmatch(r"Non-existent (?:config )?key: (.+)", reason)
        if unknown is None:
            raise InputError(f"{source}: {reason}") from None
        close = difflib.get_close_matches(unknown[1], list(_keys(cfg)), n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise InputError(f"{source}: unknown config key {unknown[1]}{hint}") from None
    except RecursionError:
        raise InputError(f"{source}: _BASE_ leads back to the file itself") from None


def _keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    """Full names of all keys."""
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key


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
    cfg = load_config(request.config_file, request.opts)
    get_variant(cfg.MODEL.HIERA.SIZE)
    settle_run(cfg, request, request.opts[0::2], check_files=check_files)
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
    for check in (check_test_batch, check_autocast, check_coco_eval, check_tta):
        check(cfg)
    check_training(cfg, request.world_size)
    if not request.dry_run:
        make_folder(cfg.OUTPUT_DIR, "OUTPUT_DIR")
    set_by_hand = [word for key in given for word in (key, "")]
    own_data_config(cfg, **request.own_data, opts=set_by_hand, check_files=check_files)
    check_work(cfg, request)
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
    batch, parts = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE
    if cfg.SOLVER.MAX_ITER < 1:
        raise InputError(f"SOLVER.MAX_ITER {cfg.SOLVER.MAX_ITER}: give 1 or more")
    if parts < 1:
        raise InputError(f"SOLVER.ACCUMULATE {parts}: give the parts of a batch, at least 1")
    if batch < 1 or batch % (processes * parts):
        raise InputError(
            f"SOLVER.IMS_PER_BATCH {batch}: it counts the images of all processes together and must be a multiple of "
            f"their number times SOLVER.ACCUMULATE, {processes} x {parts}"
        )
    check_parallel(cfg.SOLVER.PARALLEL)
    check_ema_decay(cfg.SOLVER.EMA_DECAY)
    check_precision(cfg)
    check_lsj(cfg)


def check_work(cfg: CfgNode, request: RunRequest) -> None:
    """Refuse a run without data or weights, and bring the weights to this machine; in place.

    Raises:
        InputError: what is missing.
    """
    check_registered(cfg, train=not request.eval_only)
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
