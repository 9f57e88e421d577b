"""Mistakes told in the words of a caller in Python, who knows neither flags nor, where there is an argument, keys."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from hiera_det.engine.stop import as_guest
from hiera_det.errors import InputError

__all__ = ["called_from_python", "in_words"]

#: What flags are in Python, where it is not their own word.
FLAGS = {
    "--train-json and --train-images": "train=(JSON, images)",
    "--val-json and --val-images": "val=(JSON, images)",
    "--train-json and its like": "train",
    "--val-json and its like": "val",
    "--train-json": "train[0]",
    "--train-images": "train[1]",
    "--val-json": "val[0]",
    "--val-images": "val[1]",
    "--config-file": "config",
    "--resume": "resume=True",
    "--auto-resume": "auto_resume=True",
    "leave --resume out": "leave resume out",
    "the command line": "the arguments",
}


def in_words(message: str, words: Mapping[str, str]) -> str:
    """A message with keys and flags replaced by what the caller wrote.

    Args:
        message: of an `InputError`.
        words: keys, or whole phrases, and the arguments that stand for them; flags need not be among them.
    """
    table = {**FLAGS, **words}
    phrases = "|".join(map(re.escape, sorted(table, key=len, reverse=True)))
    known = re.sub(rf"(?<![\w./-])(?:{phrases})(?![\w-]|\.\w)", lambda found: table[found[0]], message)
    return re.sub(r"(?<![\w./-])--([a-z][a-z-]*)", lambda found: found[1].replace("-", "_"), known)


@contextmanager
def called_from_python(words: Mapping[str, str] | None = None) -> Iterator[None]:
    """A context in a process that is the caller's, whose `InputError` names arguments; see `in_words`."""
    try:
        with as_guest():
            yield
    except InputError as error:
        if type(error) is not InputError:  # of a file, which it names
            raise
        raise InputError(in_words(str(error), words or {})) from None
