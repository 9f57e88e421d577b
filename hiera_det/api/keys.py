"""Arguments of a caller in Python as the config's keys and the request's fields."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hiera_det.engine.opts import Opts, pairs_of, words_of
from hiera_det.engine.settings import EMA_DECAY
from hiera_det.errors import InputError
from hiera_det.files import StrPath

__all__ = ["KEYS", "Data", "data_fields", "key_words", "opts_of"]

#: COCO JSON and the folder that its file names are relative to.
Data = tuple[StrPath, StrPath]

#: The key that an argument sets.
KEYS = {
    "output": "OUTPUT_DIR",
    "weights": "MODEL.WEIGHTS",
    "epochs": "SOLVER.EPOCHS",
    "iterations": "SOLVER.MAX_ITER",
    "batch_size": "SOLVER.IMS_PER_BATCH",
    "accumulate": "SOLVER.ACCUMULATE",
    "learning_rate": "SOLVER.BASE_LR",
    "freeze": "MODEL.BACKBONE.FREEZE_AT",
    "ema": "SOLVER.EMA_DECAY",
    "eval_epochs": "TEST.EVAL_EPOCHS",
    "checkpoint_epochs": "SOLVER.CHECKPOINT_EPOCHS",
    "best": "TEST.BEST",
    "patience": "TEST.PATIENCE",
    "seed": "SEED",
    "num_workers": "DATALOADER.NUM_WORKERS",
    "device": "MODEL.DEVICE",
    "compile": "MODEL.HIERA.COMPILE",
}
#: Keys that follow from arguments which set several.
OTHERS = {
    "SOLVER.AMP.ENABLED True with SOLVER.AMP.PRECISION": "precision",
    "SOLVER.AMP.PRECISION": "precision",
    "INPUT.LSJ.SIZE": "image_size",
    "INPUT.MIN_SIZE_TRAIN": "image_size",
    "INPUT.MIN_SIZE_TEST": "image_size",
}


def opts_of(
    given: dict[str, Any], config: str, image_size: int | None, precision: str | None, opts: Opts
) -> tuple[Any, ...]:
    """The pairs of keys and values that arguments and ``opts`` stand for.

    Raises:
        InputError: both set a key.
    """
    if given.get("epochs") == 0:  # the key's 0 leaves the config's iterations in force
        raise InputError("epochs 0: give a number above 0; evaluate(run) measures without training")
    if given.get("ema") is True:
        given["ema"] = EMA_DECAY
    values = {KEYS[name]: os.fspath(value) if isinstance(value, Path) else value for name, value in given.items()}
    if precision is not None:
        values["SOLVER.AMP.ENABLED"] = precision != "float32"
        if precision != "float32":
            values["SOLVER.AMP.PRECISION"] = precision
    rest = pairs_of(opts)
    if image_size is not None:
        values |= _size_keys(config, rest, image_size)
    for key in values.keys() & rest.keys():
        name = {key: name for name, key in KEYS.items()}.get(key, OTHERS.get(key, "an argument"))
        raise InputError(f"opts {key} {rest[key]}: {name} sets it too; keep one of them")
    return words_of({**values, **rest})


def _size_keys(config: str, rest: Mapping[str, Any], size: int) -> dict[str, Any]:
    """The keys that an image size sets; the longest side keeps its ratio to the shorter."""
    from hiera_det.d2.config.load import load_config

    if type(size) is not int or size < 1:
        raise InputError(f"image_size {size}: give a whole number of pixels")
    cfg = load_config(config, words_of(rest))
    longest = round(size * cfg.INPUT.MAX_SIZE_TEST / cfg.INPUT.MIN_SIZE_TEST)
    keys = {"INPUT.MIN_SIZE_TEST": size, "INPUT.MAX_SIZE_TEST": longest}
    if not cfg.INPUT.LSJ.ENABLED:
        longest = round(size * cfg.INPUT.MAX_SIZE_TRAIN / max(cfg.INPUT.MIN_SIZE_TRAIN))
        return keys | {"INPUT.MIN_SIZE_TRAIN": (size,), "INPUT.MAX_SIZE_TRAIN": longest}
    padded = {"MODEL.HIERA.SQUARE_PAD": size} if cfg.MODEL.HIERA.SQUARE_PAD else {}
    return keys | padded | {"INPUT.LSJ.SIZE": size}


def data_fields(split: str, paths: StrPath | Data | None) -> dict[str, Any]:
    """A split's fields of a request.

    Raises:
        InputError: it is no pair of paths.
    """
    if paths is None:
        return {}
    if isinstance(paths, str | os.PathLike) or len(paths) != 2:
        raise InputError(f"{split} {paths!r}: give two paths, {split}=(COCO JSON, folder of its images)")
    return {f"{split}_json": os.fspath(paths[0]), f"{split}_images": os.fspath(paths[1])}


def key_words(opts: Opts) -> dict[str, str]:
    """Arguments by the keys that they stand for, but for keys that the caller has written."""
    return {key: name for key, name in ({key: name for name, key in KEYS.items()} | OTHERS).items() if key not in opts}
