"""How it is written down who reads a key, when, and what it takes; the kinds that several keys share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hiera_det.d2.config.kinds import TEXT, Kind, choice, number, several, whole

__all__ = ["Reader", "When", "nested", "on", "one_of"]


class When(NamedTuple):
    """A condition on another key.

    Attributes:
        key: its full name.
        holds: whether a value of it lets the reader read.
        words: what to set it to.
    """

    key: str
    holds: Callable[[Any], bool]
    words: str


class Reader(NamedTuple):
    """Who reads keys with a common beginning.

    Attributes:
        who: in words; "" for nobody.
        when: all of these must hold.
        prefix: beginning of the keys, with its dot, or "".
        keys: kinds of values, and the rest of the names of the keys that take them.
        advice: what to do in place of setting them, where that is not to leave them out.
    """

    who: str
    when: tuple[When, ...]
    prefix: str
    keys: dict[Kind, str]
    advice: str = ""


def on(key: str) -> When:
    """A key is True."""
    return When(key, lambda value: value is True, "True")


def one_of(key: str, *values: str, known: tuple[str, ...] = ()) -> When:
    """A key is one of these; a name that is not known may be anybody's own, and may read anything."""
    return When(key, lambda value: value in values or (bool(known) and value not in known), " or ".join(values))


COUNT, CHANNELS, SIDE, LAYERS, CLASSES = whole(1), whole(1, 2**14), whole(1, 2**15), whole(0, 64), whole(1, 10**6)
FRACTION, POSITIVE, ANY_NUMBER = number(0.0, 1.0), number(above=True), number(-float("inf"))
#: Fractions from which the ends are left out: the lower, the upper, both.
ABOVE_0, BELOW_1, BETWEEN = (
    number(0.0, 1.0, above=True),
    number(0.0, 1.0, below=True),
    number(0.0, 1.0, above=True, below=True),
)
AMOUNT = number()
NAMES, SOME_NAMES, SIZES = several(TEXT), several(TEXT, 1), several(SIDE, 1)
STAGES = ("stage1", "stage2", "stage3", "stage4")
STAGE = choice(*STAGES)


def nested(kind: Kind) -> Kind:
    """A list of values, or one such list per level."""
    one, levels = several(kind, 1), several(several(kind, 1), 1)
    return Kind(
        f'a list such as "[[..],[..]]" of {kind.words}', lambda value: one.accepts(value) or levels.accepts(value)
    )
