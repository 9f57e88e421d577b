"""A config as layers: its base files, the file itself, the command line; what is written later counts.

Some keys are to be understood by where they stand, for example a learning rate by the batch size that is in force
there. yacs forgets where a value came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from detectron2.config import CfgNode

__all__ = ["Layer", "get_value", "last_layer", "set_value"]

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
