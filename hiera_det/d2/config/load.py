"""A config from its files and KEY VALUE pairs: each value of the kind that its key takes, each key read by somebody."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode, downgrade_config, get_cfg, upgrade_config

from hiera_det.d2.config.files import find_config
from hiera_det.d2.config.keys import add_hiera_config
from hiera_det.d2.config.kinds import as_given, shown
from hiera_det.d2.config.layers import Layer, last_layer, set_value
from hiera_det.d2.config.model_keys import is_hiera
from hiera_det.d2.config.reading import read_files
from hiera_det.d2.config.schedule import settle_schedule
from hiera_det.d2.config.unread import check_read, kind_of
from hiera_det.d2.data.augmentation import settle_input
from hiera_det.engine.opts import Opts, words_of
from hiera_det.errors import InputError
from hiera_det.files import StrPath

__all__ = ["config_layers", "default_config", "load_config", "merge_layers"]

COMMAND_LINE = "the command line"
MISSING = object()
#: Keys that only configs of detectron2's first layout have.
FIRST_LAYOUT = ("MODEL.WEIGHT", "TEST.AUG_ON")


def default_config() -> CfgNode:
    """detectron2's config with this project's keys."""
    cfg = get_cfg()
    add_hiera_config(cfg)
    return cfg


def load_config(config_file: StrPath, opts: Opts = ()) -> CfgNode:
    """Read a YAML config with its bases and apply KEY VALUE pairs.

    Args:
        config_file: path of the YAML file, or the name of one of this project's; "" for detectron2's defaults.
        opts: keys and values, as a dict or in turn.

    Returns:
        the config, not frozen.

    Raises:
        InputError: file, key or value cannot be used, or nobody reads a key; the nearest is named for an unknown one.
    """
    words = words_of(opts) if isinstance(opts, Mapping) else opts
    return merge_layers(config_layers(os.fspath(config_file), words))


def merge_layers(layers: list[Layer]) -> CfgNode:
    """The config of `config_layers`; see `load_config`."""
    cfg = default_config()
    if _is_first_layout(layers[:-1]):
        cfg, layers = _upgraded(cfg, layers[:-1]), layers[-1:]
    for layer in layers:
        _apply(cfg, layer)
    settle_schedule(cfg, layers)
    settle_input(cfg, layers)
    _settle_rest(cfg, layers)
    check_read(cfg, default_config(), layers)
    return cfg


def config_layers(config_file: str, opts: Sequence[Any]) -> list[Layer]:
    """A config file's bases, the file itself and the command line, as they are written.

    Raises:
        InputError: a file cannot be read, or the command line has no pairs.
    """
    return [*(read_files(find_config(config_file)) if config_file else []), _command_line(opts)]


def _command_line(opts: Sequence[Any]) -> Layer:
    """KEY VALUE pairs as a layer.

    Raises:
        InputError: they are no pairs.
    """
    for word in opts[0::2]:
        if str(word).startswith("--"):
            raise InputError(f"flag {word} stands after the KEY VALUE pairs: put flags before them")
        if "=" in str(word):
            raise InputError(f"{word}: write KEY VALUE, with a blank between them; LazyConfigs take key=value")
        if os.path.splitext(str(word))[1].lower() in (".json", ".yaml", ".yml", ".pth", ".pkl") or os.sep in str(word):
            raise InputError(
                f"{word}: stands where KEY VALUE pairs begin: each flag takes one file or folder (several COCO JSONs: "
                "merge them, or register them and name them in DATASETS.TRAIN)"
            )
    if len(opts) % 2:
        raise InputError(f"{opts[-1]}: KEY VALUE pairs come in twos, and the last key has no value")
    return Layer(COMMAND_LINE, dict(zip(opts[0::2], opts[1::2], strict=True)))


def _apply(cfg: CfgNode, layer: Layer) -> None:
    """Set what a layer sets, in place; its values take the form in which they stand in the config.

    Raises:
        InputError: an unknown key, or a value of another kind.
    """
    for key, given in layer.values.items():
        default = _value_or_missing(cfg, key)
        # A key on the command line says itself where it stands.
        source = "" if layer.source == COMMAND_LINE else f"{layer.source}: "
        place = f"{source}{shown(key)} {shown(given)}"
        if default is MISSING:
            close = difflib.get_close_matches(key.upper(), list(_keys(cfg)), n=1, cutoff=0.5)
            raise InputError(
                f"{place}: unknown config key {shown(key)}{f'; did you mean {close[0]}?' if close else ''}"
            )
        if isinstance(default, CfgNode):
            raise InputError(f"{place}: a value stands where keys belong, such as {key}.{next(iter(default))}")
        value = as_given(default, given)
        kind = kind_of(key, default)
        if not kind.accepts(value):
            raise InputError(f"{source}{kind.refusal(key, given)}")
        set_value(cfg, key, value)
        layer.values[key] = value


def _value_or_missing(cfg: CfgNode, key: str) -> Any:
    node: Any = cfg
    for part in key.split("."):
        node = node.get(part, MISSING) if isinstance(node, CfgNode) else MISSING
    return node


def _keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    """Full names of all keys."""
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def _settle_rest(cfg: CfgNode, layers: Sequence[Layer]) -> None:
    """What follows from where keys stand, or do not stand; in place."""
    if is_hiera(cfg.MODEL.BACKBONE.NAME) and last_layer(layers, "MODEL.BACKBONE.FREEZE_AT") < 0:
        cfg.MODEL.BACKBONE.FREEZE_AT = 0  # detectron2's default is meant for ResNets
    counted = last_layer(layers, "SOLVER.IMAGES_PER_EPOCH")
    if counted >= 0 and layers[counted].is_whole and last_layer(layers, "DATASETS.TRAIN", "SOLVER.EPOCHS") > counted:
        cfg.SOLVER.IMAGES_PER_EPOCH = 0  # of the data that the config was written down for


def _is_first_layout(layers: Sequence[Layer]) -> bool:
    """Whether these are files of detectron2's first layout, which names some keys otherwise."""
    versions = [layer.values["VERSION"] for layer in layers if "VERSION" in layer.values]
    return versions[-1] == 1 if versions else last_layer(layers, *FIRST_LAYOUT) >= 0


def _upgraded(cfg: CfgNode, layers: Sequence[Layer]) -> CfgNode:
    """A config of detectron2's first layout in the present one.

    Raises:
        InputError: a key or value that detectron2 does not take there.
    """
    old = downgrade_config(cfg, to_version=1)
    for layer in layers:
        for key, value in layer.values.items():
            try:
                old.merge_from_list([key, value])
            except (AssertionError, KeyError, ValueError, TypeError, AttributeError) as error:
                reason = " ".join(str(error).split())
                raise InputError(f"{layer.source}: {key} {shown(value)}: {reason} (a config of VERSION 1)") from None
    return upgrade_config(old)
