"""A key that a user sets is read by somebody, or the run stops: the tables of readers, and the check of layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode

from hiera_det.d2.config.kinds import Kind, kind_like, same, shown
from hiera_det.d2.config.layers import Layer, get_value, last_layer
from hiera_det.d2.config.model_keys import MODEL_KEYS
from hiera_det.d2.config.readers import Reader, When
from hiera_det.d2.config.run_keys import RUN_KEYS
from hiera_det.errors import InputError

__all__ = ["READERS", "check_read", "failing", "kind_of", "markdown"]

TABLE = (*RUN_KEYS, *MODEL_KEYS)
#: The reader of each key, and what the key takes.
READERS: dict[str, tuple[Reader, Kind]] = {
    reader.prefix + name: (reader, kind)
    for reader in TABLE
    for kind, names in reader.keys.items()
    for name in names.split()
}


def kind_of(key: str, default: Any) -> Kind:
    """What a key takes; by its default where no table names it."""
    return READERS[key][1] if key in READERS else kind_like(default)


def failing(cfg: CfgNode, key: str) -> When | None:
    """The first condition under which somebody reads a key and that does not hold; None where all hold."""
    return next((when for when in READERS[key][0].when if not when.holds(get_value(cfg, when.key))), None)


def check_read(cfg: CfgNode, defaults: CfgNode, layers: Sequence[Layer]) -> None:
    """Refuse keys that are set and that nobody reads.

    What an earlier layer set and a later one has put out of use, such as a mask head's width under ``MODEL.MASK_ON
    False``, is no mistake; nor is what stands in a config that was written down with all its keys.

    Raises:
        InputError: the first of them, where it stands, and what to do.
    """
    for key, (reader, _) in READERS.items():
        at = last_layer(layers, key)
        if at < 0 or same(get_value(cfg, key), get_value(defaults, key)):
            continue
        layer = layers[at]
        place = f"{layer.source}: {key} {shown(layer.values[key])}"
        if not reader.who:
            raise InputError(f"{place}: nothing here reads it: {reader.advice or 'leave it out'}")
        when = failing(cfg, key)
        if when is None or layer.is_whole or last_layer(layers, when.key) > at or _is_part(layers, when.key):
            continue
        raise InputError(
            f"{place}: {reader.who} would read it, but only under {when.key} {when.words}, which is "
            f"{get_value(cfg, when.key)}: leave one of them out{'; ' + reader.advice if reader.advice else ''}"
        )


def _is_part(layers: Sequence[Layer], key: str) -> bool:
    """Whether these files are no detector yet, as a base that comes after a model's."""
    return key == "MODEL.BACKBONE.NAME" and last_layer(layers, key) < 0


def markdown() -> str:
    """The tables as Markdown, for ``docs/config_keys.md``."""
    lines = ["| key | takes | read by | under |", "|---|---|---|---|"]
    for key, (reader, kind) in sorted(READERS.items()):
        under = ", ".join(f"{when.key} {when.words}" for when in reader.when)
        lines.append(f"| `{key}` | {kind.words} | {reader.who or 'nobody: refused'} | {under} |".replace("|  |", "| |"))
    return "\n".join(lines)
