"""Folders that can be written into, and files that are whole or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from hiera_det.errors import InputError

__all__ = ["make_folder", "write_atomically"]


def make_folder(folder: str, what: str = "folder") -> None:
    """Make a folder where there is none, before hours are spent on what is to go into it.

    Args:
        folder: its path.
        what: the flag or key that named it, for the message.

    Raises:
        InputError: it cannot be made or written into.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{what} {folder}: cannot be written ({error.strerror}); choose another") from None


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a file beside ``path``, then put it in its place.

    Raises:
        OSError: it cannot be written; ``path`` is then as it was.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            write(file)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
