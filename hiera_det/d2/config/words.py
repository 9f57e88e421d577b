"""Errors in the words that the user wrote: a check knows a setting by one name, its user perhaps by another."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping

from hiera_det.errors import InputError

__all__ = ["renamed"]


@contextlib.contextmanager
def renamed(words: Mapping[str, str]) -> Iterator[None]:
    """A context whose `InputError` says the user's words.

    Args:
        words: names as the checks know them, and as the user does; longer ones go first.
    """
    try:
        yield
    except InputError as error:
        names = "|".join(re.escape(name) for name in sorted(words, key=len, reverse=True))
        message = re.sub(rf"(?<![\w.])({names})\b(?!\.?\w)", lambda found: words[found[1]], str(error))
        if isinstance(error, OSError):  # of a file, not of a setting
            raise
        raise type(error)(message) from None
