"""The SHA-256 that somebody gave for a file which has no checksum of its own."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from hiera_det.errors import InputError

__all__ = ["check_sha256"]

_SHA256_LETTERS = 64
_SHA256 = re.compile(rf"[0-9a-f]{{{_SHA256_LETTERS}}}")
_CHUNK = 1 << 20


def check_sha256(path: Path) -> bool:
    """Compare a file with the SHA-256 that is known of it, where one is.

    Known is what ``FILE.sha256`` beside it says, as ``sha256sum FILE`` writes it, and the name of a file in the
    Hugging Face cache, which is the checksum of its content.

    Returns:
        whether one is known.

    Raises:
        InputError: they differ, or the file beside it holds no SHA-256.
    """
    expected = _expected(path)
    if not expected:
        return False
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        raise InputError(f"weight file {path} is damaged: its SHA-256 is not {expected}; copy or download it again")
    return True


def _expected(path: Path) -> str:
    """The SHA-256 that a file should have, or ""."""
    beside = path.with_name(f"{path.name}.sha256")
    if beside.is_file():
        try:
            with open(beside, errors="replace") as file:
                first = file.read(_SHA256_LETTERS).lower()
        except OSError as error:
            raise InputError(f"{beside} cannot be opened ({error.strerror}): check its permissions") from None
        if not _SHA256.fullmatch(first):
            raise InputError(f"{beside} does not begin with a SHA-256: write it by `sha256sum`, or remove it")
        return first
    blob = path.resolve().name
    return blob if path.is_symlink() and _SHA256.fullmatch(blob) else ""
