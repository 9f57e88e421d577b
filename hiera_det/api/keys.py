"""Arguments of a caller in Python as the config's keys and the request's fields."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hiera_det.data.own import settled_data
from hiera_det.engine.opts import Opts, pairs_of, words_of
from hiera_det.engine.settings import EMA_DECAY
from hiera_det.errors import InputError
from hiera_det.files import StrPath

__all__ = ["KEYS", "Data", "data_fields", "key_words", "opts_of", "own_data"]

logger = logging.getLogger("hiera_det.data")

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


def own_data(
    train: Data | Sequence[Data] | None,
    val: Data | Sequence[Data] | None,
    folder: StrPath | None,
    share: float | None,
    target: Callable[[], str],
) -> dict[str, Any]:
    """The fields of a request for own data, merged, recognised and split where that is asked for.

    Args:
        train: one pair of paths, or several.
        val: likewise.
        folder: of a data set in a known layout, in place of both.
        share: of the images that is trained on.
        target: gives the folder for JSONs that are made.

    Raises:
        InputError: see `hiera_det.data.own.OwnData`.
    """
    paths: dict[str, list[str]] = {}
    for split, given in (("train", train), ("val", val)):
        several = isinstance(given, list | tuple) and bool(given) and not isinstance(given[0], str | os.PathLike)
        pairs = [data_fields(split, pair) for pair in (given if several else (given,))]  # type: ignore[arg-type,union-attr]
        for name in (f"{split}_json", f"{split}_images"):
            paths[name] = [pair[name] for pair in pairs if name in pair]
    own = settled_data(paths, os.fspath(folder or ""), share, 0, target, logger.info)
    return {name: path for name, path in own.items() if path is not None}


def key_words(opts: Opts) -> dict[str, str]:
    """Arguments by the keys that they stand for, but for keys that the caller has written."""
    return {key: name for key, name in ({key: name for name, key in KEYS.items()} | OTHERS).items() if key not in opts}
