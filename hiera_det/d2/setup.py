"""From a command line to a checked config: files, KEY VALUE pairs, device, output folder, data and weights."""

from __future__ import annotations

import difflib
import logging
import os
import re
from argparse import Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg

from hiera_det.d2.batches import check_test_batch
from hiera_det.d2.checkpoint import last_checkpoint, local_weights
from hiera_det.d2.config import add_hiera_config
from hiera_det.d2.data import check_registered, own_data_config
from hiera_det.d2.evaluation import check_coco_eval
from hiera_det.d2.precision import check_autocast
from hiera_det.errors import InputError
from hiera_det.files import make_folder
from hiera_det.modeling.variants import get_variant

__all__ = ["load_config", "setup_config"]

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
        _merge(cfg, config_file, lambda: cfg.merge_from_file(config_file, allow_unsafe=False))
    flags = [word for word in opts[0::2] if word.startswith("--")]
    if flags:
        raise InputError(f"flag {flags[0]} stands after the KEY VALUE pairs: put flags before them")
    if len(opts) % 2:
        raise InputError(f"{opts[-1]}: KEY VALUE pairs come in twos, and the last key has no value")
    for key, value in zip(opts[0::2], opts[1::2], strict=True):
        _merge(cfg, f"{key} {value}", partial(cfg.merge_from_list, [key, value]))
    return cfg


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


def setup_config(args: Namespace, *, check_files: bool = True) -> CfgNode:
    """Everything that can be checked before a model is built; called in each process of a run.

    Args:
        args: detectron2's flags, and ``train_json``, ``train_images``, ``val_json``, ``val_images``.
        check_files: look at each image file of own data too; False in workers whose parent process did.

    Returns:
        the frozen config; ``MODEL.WEIGHTS`` is a local file or "".

    Raises:
        InputError: something cannot be used; one line.
    """
    cfg = load_config(args.config_file, args.opts)
    get_variant(cfg.MODEL.HIERA.SIZE)
    _choose_device(cfg, args)
    _check_batch(cfg, args)
    for check in (check_test_batch, check_autocast, check_coco_eval):
        check(cfg)
    make_folder(cfg.OUTPUT_DIR, "OUTPUT_DIR")
    own = (args.train_json, args.train_images, args.val_json, args.val_images)
    own_data_config(cfg, *own, args.opts, check_files=check_files)
    check_registered(cfg, train=not args.eval_only)
    if not args.eval_only and not cfg.DATASETS.TRAIN:
        raise InputError("nothing to train on: give --train-json and --train-images, or set DATASETS.TRAIN")
    if args.eval_only and not cfg.DATASETS.TEST:
        raise InputError("nothing to evaluate on: give --val-json and --val-images, or set DATASETS.TEST")
    if args.eval_only and not (args.resume or cfg.MODEL.WEIGHTS):
        raise InputError(
            "--eval-only: MODEL.WEIGHTS is empty; give a trained file, MODEL.WEIGHTS output/model_final.pth"
        )
    if args.resume:
        last_checkpoint(cfg.OUTPUT_DIR)
    else:
        cfg.MODEL.WEIGHTS = local_weights(cfg.MODEL.WEIGHTS)
    cfg.freeze()
    return cfg


def _choose_device(cfg: CfgNode, args: Namespace) -> None:
    """Fall to the CPU where there is no GPU and none was asked for by name."""
    gpus = torch.cuda.device_count()
    asked = "MODEL.DEVICE" in args.opts[0::2] and cfg.MODEL.DEVICE != "cpu"
    if args.num_gpus > max(1, gpus) or (asked and not gpus):
        raise InputError(
            f"--num-gpus {args.num_gpus}, MODEL.DEVICE {cfg.MODEL.DEVICE}: this machine has {gpus} GPUs that PyTorch "
            "can use; MODEL.DEVICE cpu with --num-gpus 1 runs without"
        )
    if not gpus and cfg.MODEL.DEVICE == "cuda":
        logger.info("no GPU here: MODEL.DEVICE is set to cpu")
        cfg.MODEL.DEVICE = "cpu"
    if cfg.MODEL.DEVICE == "cpu" and cfg.SOLVER.AMP.ENABLED:
        raise InputError("SOLVER.AMP.ENABLED True needs a GPU: set it to False on the CPU")


def _check_batch(cfg: CfgNode, args: Namespace) -> None:
    """Refuse a batch that cannot be shared out evenly."""
    processes = max(1, args.num_gpus) * args.num_machines
    batch = cfg.SOLVER.IMS_PER_BATCH
    if batch < 1 or batch % processes:
        raise InputError(
            f"SOLVER.IMS_PER_BATCH {batch}: it counts the images of all GPUs together and must be a multiple of their "
            f"number, {processes}"
        )
