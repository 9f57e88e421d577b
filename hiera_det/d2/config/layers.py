"""A config as layers: its base files, the file itself, the command line; what is written later counts.

Some keys are to be understood by where they stand, for example a learning rate by the batch size that is in force
there. yacs forgets where a value came from, so the files are looked at once more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import yaml
from detectron2.config import CfgNode

__all__ = ["Layer", "get_value", "last_layer", "read_layers", "set_value"]

#: More keys than anybody writes into a file.
WHOLE = 150


class Layer(NamedTuple):
    """What one file, or the command line, writes: full names of keys and their values."""

    source: str
    values: dict[str, Any]

    @property
    def is_whole(self) -> bool:
        """Whether it is a config written down with all its defaults, where both of two alternatives stand."""
        return len(self.values) > WHOLE


def read_layers(config_file: str, opts: Sequence[str]) -> list[Layer]:
    """A config file's bases, the file itself and the command line, from the first to the last.

    Args:
        config_file: path of a YAML file that detectron2 has read without complaint; "" for none.
        opts: keys and values in turn, as the command line gives them.
    """
    layers = _file_layers(config_file) if config_file else []
    values = {key: _literal(value) for key, value in zip(opts[0::2], opts[1::2], strict=True)}
    return [*layers, Layer("the command line", values)]


def _literal(value: str) -> Any:
    """A value of the command line as YAML reads it."""
    try:
        return yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError:
        return value


def _file_layers(path: str) -> list[Layer]:
    """A file after its bases; a base of two files that inherit from it stands twice, which changes nothing."""
    with open(path, encoding="utf-8") as file:
        content = yaml.safe_load(file) or {}
    bases = content.pop("_BASE_", [])
    layers = []
    for base in [bases] if isinstance(bases, str) else bases:
        layers += _file_layers(os.path.join(os.path.dirname(path), os.path.expanduser(base)))
    return [*layers, Layer(path, dict(_flat(content)))]


def _flat(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Full names and values of a nested dict."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def last_layer(layers: Sequence[Layer], *keys: str) -> int:
    """Index of the last layer that sets one of the keys; -1 for none."""
    return max((index for index, layer in enumerate(layers) for key in keys if key in layer.values), default=-1)


def get_value(cfg: CfgNode, key: str) -> Any:
    """The value of a key by its full name."""
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def set_value(cfg: CfgNode, key: str, value: Any) -> None:
    """Set the value of a key by its full name."""
    *parents, leaf = key.split(".")
    for part in parents:
        cfg = cfg[part]
    cfg[leaf] = value
