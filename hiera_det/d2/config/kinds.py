"""Kinds of values that a key takes: a test, and the words that say what it takes."""

from __future__ import annotations

import math
import warnings
from ast import literal_eval
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = [
    "SWITCH",
    "TEXT",
    "Kind",
    "as_given",
    "choice",
    "kind_like",
    "number",
    "optional",
    "several",
    "shown",
    "whole",
]

#: More than any count here, and within what 32-bit integers hold.
MOST = 10**9
#: Letters of a value in a message.
MOST_SHOWN = 80


@dataclass(frozen=True)
class Kind:
    """What a key takes.

    Attributes:
        words: to stand after the verb, such as "a whole number of at least 1".
        accepts: whether a value is of the kind.
        verb: what to do with the words, "give" or "choose".
    """

    words: str
    accepts: Callable[[Any], bool]
    verb: str = "give"

    def refusal(self, key: str, value: Any) -> str:
        """What is wrong with a value of a key, and what the key takes."""
        return f"{key} {shown(repr(value) if self.verb == 'choose' else value)}: {self.verb} {self.words}"


TEXT = Kind("text", lambda value: isinstance(value, str) and "\0" not in value)
SWITCH = Kind("True or False", lambda value: isinstance(value, bool))


def whole(low: int = 0, high: int = MOST) -> Kind:
    """Whole numbers of at least ``low`` and at most ``high``."""
    start = "" if low == -MOST else f" of at least {low}"
    end = "" if high == MOST else f" and at most {high}"
    return Kind(f"a whole number{start}{end}", lambda value: type(value) is int and low <= value <= high)


def number(low: float = 0.0, high: float = math.inf, *, above: bool = False, below: bool = False) -> Kind:
    """Finite numbers from ``low`` to ``high``, the ends included unless ``above`` or ``below`` them is asked for."""
    start = "" if low == -math.inf else f" above {low:g}" if above else f" of at least {low:g}"
    end = "" if high == math.inf else f"{' and' if start else ''} {'below' if below else 'at most'} {high:g}"

    def accepts(value: Any) -> bool:
        if type(value) not in (int, float) or not -1e300 < value < 1e300:  # NaN is in no range
            return False
        return (low < value if above else low <= value) and (value < high if below else value <= high)

    return Kind(f"a number{start}{end}", accepts)


def choice(*words: str) -> Kind:
    """One of some words."""
    *first, last = (word or '""' for word in words)
    return Kind(f"{', '.join(first)} or {last}", lambda value: isinstance(value, str) and value in words, "choose")


def several(kind: Kind, least: int = 0, most: int = 100_000) -> Kind:
    """A list of values of one kind."""
    size = f" of {least}" if least == most else f" of at least {least}" if least else ""
    sample = "['..','..']" if kind is TEXT else "[..,..]"  # words without quotes are read as text, brackets and all
    return Kind(
        f'a list{size} such as "{sample}", each entry {kind.words}',
        lambda value: isinstance(value, list | tuple) and least <= len(value) <= most and all(map(kind.accepts, value)),
    )


def optional(kind: Kind) -> Kind:
    """A kind, or None."""
    return Kind(f"{kind.words}, or None", lambda value: value is None or kind.accepts(value))


def kind_like(value: Any) -> Kind:
    """The kind of a default, for keys that no table names."""
    if isinstance(value, bool):
        return SWITCH
    if isinstance(value, int):
        return whole(-MOST)
    if isinstance(value, float):
        return number(-math.inf)
    if isinstance(value, str):
        return TEXT
    if isinstance(value, list | tuple):
        return several(Kind("a plain value", lambda entry: entry is not None), 0)
    return Kind("a value", lambda _: True)


def as_given(default: Any, value: Any) -> Any:
    """A value of a file or the command line in the form of a default: text is read, whole numbers serve as fractions.

    Where text is wanted, the words stay as they are: ``OUTPUT_DIR 2024`` is a folder.
    """
    if isinstance(value, str) and not (isinstance(default, str) and not _is_quoted(value) and value != "None"):
        value = _literal(value)
    if isinstance(default, float) and type(value) is int and abs(value) < 10**300:
        return float(value)
    if isinstance(default, tuple | list) and isinstance(value, tuple | list):
        return type(default)(value)
    return value


def _is_quoted(text: str) -> bool:
    return len(text) > 1 and text[0] == text[-1] and text[0] in "'\""


def _literal(text: str) -> Any:
    """What Python, and with it detectron2's command line, reads in a word; the word itself where that is nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes
            return literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def shown(value: Any) -> str:
    """The beginning of a value, for a message."""
    text = str(value)
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."


def same(one: Any, other: Any) -> bool:
    """Equality that takes lists for tuples, at every depth."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
