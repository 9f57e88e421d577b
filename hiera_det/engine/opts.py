"""Config keys and their values as callers in Python give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from hiera_det.errors import InputError

__all__ = ["Opts", "pairs_of", "words_of"]

#: Config keys with their values, as a dict or in turn.
Opts: TypeAlias = Mapping[str, Any] | Sequence[Any]


def pairs_of(opts: Opts) -> dict[str, Any]:
    """``opts`` as a dict.

    Raises:
        InputError: they are no pairs.
    """
    pairs: dict[Any, Any] = {None: None}
    if isinstance(opts, Mapping):
        pairs = dict(opts)
    elif isinstance(opts, Sequence) and not isinstance(opts, str | bytes) and len(opts) % 2 == 0:
        pairs = dict(zip(opts[0::2], opts[1::2], strict=True))
    if not all(isinstance(key, str) for key in pairs):
        raise InputError(f"opts {opts!r}: give a dict, or keys and values in turn")
    return pairs


def words_of(pairs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Keys and values in turn."""
    return tuple(word for pair in pairs.items() for word in pair)
