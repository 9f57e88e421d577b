"""Reading a COCO JSON, once in a process.

`read_coco` parses the annotations one by one and keeps columns of numbers (`hiera_det.data.coco.schema`), so that the
peak of memory is the file's text and not ten times as much. What was read is kept for the next who asks, until the
file changes: checking, training, evaluation and counting share one reading.
"""

from __future__ import annotations

import codecs
import gc
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hiera_det.data.coco.findings import kind_of
from hiera_det.data.coco.formats import recognised
from hiera_det.data.coco.pack import Packer
from hiera_det.data.coco.schema import Annotations, CocoData, StrPath
from hiera_det.errors import InputError

__all__ = ["nearest_folder", "no_garbage_collection", "read_coco", "read_json"]

#: How many JSONs are kept: those of training and of evaluation.
KEPT = 2

_BLANKS = re.compile(r"[ \t\n\r]*")
_COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
_kept: dict[tuple[str, int, int], CocoData] = {}


def read_coco(json_path: StrPath) -> CocoData:
    """Read a COCO JSON, or take what was read of it before.

    Raises:
        InputError: see `read_json`.
    """
    path = os.path.abspath(json_path)
    try:
        status = os.stat(path)
        key = (path, status.st_mtime_ns, status.st_size)  # a file that was written anew is read anew
    except (OSError, ValueError):
        return _read(json_path)  # which says what is wrong
    if key not in _kept:
        data = _read(json_path)
        for old in [old for old in _kept if old[0] == path] + list(_kept)[: -KEPT + 1]:
            _kept.pop(old, None)
        _kept[key] = data
    return _kept[key]


def read_json(json_path: StrPath) -> Any:
    """Read a JSON file as Python's own lists and dictionaries; UTF-8, with or without byte order mark.

    Raises:
        InputError: the file is missing, a folder, unreadable, not UTF-8 or not JSON.
    """
    path = Path(json_path)
    text, _ = _text(path)
    with _syntax_errors_told(path, text), no_garbage_collection():
        return json.loads(text)


def _read(json_path: StrPath) -> CocoData:
    path = Path(json_path)
    text, has_mark = _text(path)
    with _syntax_errors_told(path, text), no_garbage_collection():
        top, annotations = _parse(text)
    if not isinstance(top, dict):
        raise InputError(
            f"{path}: top level is {kind_of(top)}, not an object with the keys images, annotations, categories"
            + recognised(path, top)
        )
    return CocoData(str(json_path), top, annotations, has_mark)


def _text(path: Path) -> tuple[str, bool]:
    """What a file holds, and whether a byte order mark stands before it."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the COCO JSON file itself{recognised(path)}")
    try:
        content = path.read_bytes()
        return content.decode("utf-8-sig"), content.startswith(codecs.BOM_UTF8)
    except FileNotFoundError:
        raise InputError(f"{path}: no such JSON file; {nearest_folder(path)}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not JSON: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except ValueError as error:  # a NUL in the name
        raise InputError(f"{path}: cannot be read ({error})") from None


def _parse(text: str) -> tuple[Any, Annotations | None]:
    """The top level and, where it is an object with a list of them, the annotations as columns.

    Raises:
        json.JSONDecodeError, RecursionError, ValueError: as `json.loads` does.
    """
    # Only the annotations are many; the other lists are parsed in one call, which shares the texts of their keys.
    decode = json.JSONDecoder().raw_decode
    top: dict[str, Any] = {}
    annotations = None
    position = _skip_blanks(text, 0)
    if text[position : position + 1] != "{":
        return json.loads(text), None
    position = _skip_blanks(text, position + 1)
    while text[position : position + 1] != "}":
        key, position = decode(text, position)
        position = _skip_blanks(text, position)
        if type(key) is not str or text[position : position + 1] != ":":
            return json.loads(text), None  # raises, with the place: one home for syntax errors
        position = _skip_blanks(text, position + 1)
        if key == "annotations" and text[position : position + 1] == "[":
            annotations, position = _parse_annotations(text, position)
            top.pop(key, None)  # of a key that comes twice the last counts, as in Python
        else:
            top[key], position = decode(text, position)
            annotations = None if key == "annotations" else annotations
        comma = _COMMA.match(text, position)
        position = comma.end() if comma else _skip_blanks(text, position)
        if (text[position : position + 1] == "}") == bool(comma):
            return json.loads(text), None
    if _skip_blanks(text, position + 1) != len(text):
        return json.loads(text), None
    return top, annotations


def _parse_annotations(text: str, position: int) -> tuple[Annotations, int]:
    """The list that begins at ``position``, and where it has ended."""
    packer = Packer()
    scan, match_comma, add = json.JSONDecoder().raw_decode, _COMMA.match, packer.add
    position = _skip_blanks(text, position + 1)
    if text[position : position + 1] == "]":
        return packer.finish(), position + 1
    # One annotation's dictionary lives at a time: the whole list would take ten times the memory of its numbers.
    while True:
        entry, position = scan(text, position)
        add(entry)
        comma = match_comma(text, position)
        if comma is None:
            break
        position = comma.end()
    position = _skip_blanks(text, position)
    if text[position : position + 1] != "]":
        raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
    return packer.finish(), position + 1


def _skip_blanks(text: str, position: int) -> int:
    match = _BLANKS.match(text, position)
    return match.end() if match else position


@contextmanager
def _syntax_errors_told(path: Path, text: str) -> Iterator[None]:
    try:
        yield
    except RecursionError:
        raise InputError(f"{path}: not a COCO JSON: nested too deeply") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        reason = f"{error.msg} at {where}" if text.strip() else "the file is empty"
        advice = recognised(path, text) or "; was it cut off while being copied?"
        raise InputError(f"{path}: not JSON: {reason}{advice}") from None
    except ValueError:  # Python converts no more than 4300 digits, as that takes quadratic time
        raise InputError(f"{path}: an integer of more than 4300 digits; no number of a data set has as many") from None


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """For what makes millions of lists: they would be looked through again and again, and none is garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def nearest_folder(path: Path) -> str:
    """Advice for a file that is not there: how far its path is right."""
    folder = next((parent for parent in path.absolute().parents if parent.is_dir()), Path("/"))
    if folder != path.absolute().parent:
        return f"its folder does not exist either (nearest that does: {folder})"
    return f"check the spelling; its folder is {folder}"
