"""Reading YAML configs, which may be strangers' files: no code, no network, bounded in size, depth and values."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

from hiera_det.d2.config.files import OWN_CONFIGS
from hiera_det.d2.config.kinds import shown
from hiera_det.d2.config.layers import Layer
from hiera_det.errors import InputError

__all__ = ["read_files"]

MOST_BYTES = 2**20
MOST_VALUES = 100_000
DEEPEST = 10
BASE = "_BASE_"
#: Signs in PyYAML's messages, and what they mean to who wrote the file.
REASONS = {
    "constructor for the tag": "tags (!...) are not taken, plain values only",
    "\\t": "a tab; indent with blanks",
    "special characters": "a control character, which no text has",
    "mapping values are not allowed": "a second colon in a line, or a key under a value; quote values that have colons",
    "expected <block end>": "the indentation changes here, or a list stands among keys",
    "expected ',' or": "a bracket or brace is not closed before here, or a comma is missing",
    "unexpected end of stream": "a quote is not closed",
    "could not find expected ':'": "a colon is missing before here",
    "alias": "an alias (*name) without its anchor (&name)",
}


def read_files(path: str, above: tuple[str, ...] = ()) -> list[Layer]:
    """A file after its bases, from the first to the last; a base of two files that inherit from it stands twice.

    Args:
        path: a YAML file.
        above: the files that inherit from it.

    Raises:
        InputError: the file, a line of it or a base cannot be used; one line.
    """
    chain = (*above, path)
    if os.path.realpath(path) in map(os.path.realpath, above):
        raise InputError(f"{chain[0]}: {BASE} leads back to the file itself: {' -> '.join(chain)}")
    if len(chain) > DEEPEST:
        raise InputError(f"{chain[0]}: more than {DEEPEST} files by {BASE}, one above the other: {path}")
    content = _load(path)
    bases = content.pop(BASE, [])
    layers = []
    for base in [bases] if isinstance(bases, str) else bases if isinstance(bases, list) else [bases]:
        layers += read_files(_base(path, base), chain)
    return [*layers, Layer(path, dict(_flat(content, path)))]


def _base(path: str, base: Any) -> str:
    """The path of a base.

    Raises:
        InputError: it is no file that is named by a relative path.
    """
    place = f"{path}: {BASE} {shown(base)}"
    if not isinstance(base, str) or "://" in base or "\0" in base:
        raise InputError(f"{place}: name files beside this one, by relative paths; nothing is fetched")
    found = os.path.join(os.path.dirname(path), os.path.expanduser(base))
    if os.path.isabs(os.path.expanduser(base)) and OWN_CONFIGS not in Path(os.path.realpath(found)).parents:
        raise InputError(f"{place}: name it by a path relative to this file")
    if not os.path.isfile(found):
        raise InputError(f"{place}: no such file")
    return found


class _Loader(yaml.SafeLoader):
    """PyYAML's, which would take the last of two equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    problem = f"{key.value} stands here a second time; put both parts under one"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _load(path: str) -> dict[str, Any]:
    """The content of one file.

    Raises:
        InputError: it cannot be read, or holds no keys and values.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise InputError(f"{path}: larger than {MOST_BYTES // 2**20} MiB; is this a config?")
        content = yaml.load(text.decode("utf-8-sig"), _Loader)
        values = _count(content, {})
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file in UTF-8") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}{_in_words(error)}") from None
    except RecursionError:
        raise InputError(f"{path}: lists or keys too deep inside each other") from None
    except InputError:
        raise
    except ValueError as error:  # dates that are none, numbers of thousands of digits
        raise InputError(f"{path}: a value cannot be read ({error})") from None
    if values > MOST_VALUES:
        raise InputError(f"{path}: more than {MOST_VALUES} values; is this a config?")
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: no keys and values where keys belong; write lines such as SOLVER: {{MAX_ITER: 1000}}"
        )
    return content


def _in_words(error: yaml.YAMLError) -> str:
    """Where a file is no YAML, and why."""
    mark = getattr(error, "problem_mark", None)
    place = f" line {mark.line + 1}" if mark else ""
    problem = " ".join(str(getattr(error, "problem", None) or error).split())
    if "second time" in problem:
        return f"{place}: {problem}"
    reason = next((words for sign, words in REASONS.items() if sign in problem), "something here or above is misplaced")
    return f"{place}: not valid YAML: {reason}"


def _count(value: Any, known: dict[int, int]) -> int:
    """How many values there are, those that YAML's aliases repeat as often as they are repeated."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = MOST_VALUES + 1  # what holds itself has no end
        children = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(child, known) for child in children)
    return known[id(value)]


def _flat(node: dict[str, Any], source: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Full names and values of a nested dict."""
    for key, value in node.items():
        if not isinstance(key, str):
            raise InputError(f"{source}: unknown config key {prefix}{key}")
        if isinstance(value, dict) and value:
            yield from _flat(value, source, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
