"""Reading weight files safely: tensors and plain Python values only, never code.

What a file is shows in its first bytes; its name is not looked at.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from hiera_det.errors import InputError
from hiera_det.files import StrPath
from hiera_det.weights.checksums import check_sha256
from hiera_det.weights.safetensors_file import is_safetensors, read_safetensors, verify_safetensors
from hiera_det.weights.tensors import check_plain, shown
from hiera_det.weights.torch_file import (
    LEGACY_MAGIC,
    ZIP_MAGIC,
    read_legacy,
    read_zip,
    refuse_pickle,
    verify_zip,
)

__all__ = [
    "STANDARD_FILES",
    "WEIGHT_SUFFIXES",
    "find_weight_file",
    "is_web_page",
    "read_weight_file",
    "shard_names",
    "verify",
]

#: The names of published weights, in order of preference.
STANDARD_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
#: The endings of other weight files.
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")

logger = logging.getLogger("hiera_det.weights")

_START_BYTES = 1024
_SHOWN = 5
_INDEX_LIMIT = 100_000_000
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_OTHER_FORMATS = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF document",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "a gzip archive (unpack it first)",
    b"PK\x05\x06": "an empty zip archive",
}


def read_weight_file(path: StrPath) -> dict[str, Any]:
    """Read a PyTorch or safetensors file, or all shards that a Hugging Face index names, on the CPU.

    What the file has of checksums is looked at, see `verify`.

    Args:
        path: a local file.

    Returns:
        the dict that was saved; for safetensors and shards the tensors by name. Tensors are plain: on the CPU, dense,
        with all their values in the file.

    Raises:
        InputError: missing, unreadable, truncated, damaged, not a weight file, or a pickle that would run code.
    """
    path = Path(path)
    start = _start_of(path)
    loaded = _read_shards(path) if _is_index(start) else _read_single(path, start)
    check_plain(loaded, str(path))
    return loaded


def verify(path: StrPath) -> None:
    """Look at a file's checksums, and read none of its tensors.

    Every file that this project writes has them: a CRC-32 for each record in one of ``torch.save``, one for all in
    the metadata of a safetensors file. Beside any other, ``FILE.sha256`` as ``sha256sum FILE`` writes it is looked at.

    Raises:
        InputError: the file cannot be opened, is cut off or damaged.
    """
    path = Path(path)
    for file in [path.with_name(name) for name in shard_names(path)] if _is_index(_start_of(path)) else [path]:
        _verify(file, _start_of(file))


def _verify(path: Path, start: bytes) -> bool:
    """Compare one file with its checksums; whether it has any."""
    known = check_sha256(path)
    if start.startswith(ZIP_MAGIC):
        verify_zip(path)
        return True
    return (is_safetensors(start) and verify_safetensors(path)) or known


def find_weight_file(folder: Path) -> Path:
    """The weight file of a local folder.

    A standard name wins, then what detectron2's ``last_checkpoint`` names, then a single file that ends like weights.

    Args:
        folder: a local folder.

    Returns:
        the path of the file, or of the index of its shards.

    Raises:
        InputError: the folder cannot be listed, or it holds no weight file or several.
    """
    for name in STANDARD_FILES:
        if os.path.isfile(folder / name):
            return folder / name
    if os.path.isfile(folder / "last_checkpoint"):
        return _last_checkpoint(folder / "last_checkpoint")
    try:
        candidates = sorted(path.name for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES and path.is_file())
    except OSError as error:
        raise InputError(f"folder {folder} cannot be read ({error.strerror}): give a weight file") from None
    if not candidates:
        raise InputError(f"folder {folder} holds no weight file ({', '.join(WEIGHT_SUFFIXES)}): name the file itself")
    if len(candidates) > 1:
        named = ", ".join(candidates[:_SHOWN]) + (", ..." if len(candidates) > _SHOWN else "")
        raise InputError(
            f"folder {folder} holds {len(candidates)} weight files ({named}): "
            f"name the file itself, for example {folder / candidates[0]}"
        )
    return folder / candidates[0]


def shard_names(index: Path) -> list[str]:
    """The names of the files that an index of shards names, each once.

    Args:
        index: a local JSON file, such as ``model.safetensors.index.json``.

    Returns:
        plain file names; they belong beside the index.

    Raises:
        InputError: it is no index, or names a file elsewhere.
    """
    return sorted(set(_weight_map(index).values()))


def is_web_page(start: bytes) -> bool:
    """Whether a file that starts like this is HTML or XML."""
    return _without_bom(start).lstrip().startswith(b"<")


def _start_of(path: Path) -> bytes:
    """The first bytes of a file that is there, readable and not empty."""
    if os.path.isdir(path):
        raise InputError(f"weight file {path} is a folder: give the file in it, {find_weight_file(path)}")
    try:
        with open(path, "rb") as file:
            start = file.read(_START_BYTES)
    except FileNotFoundError:
        raise InputError(f"weight file {path} does not exist: check MODEL.WEIGHTS") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"weight file {path} cannot be opened ({reason}): check its permissions") from None
    if not start:
        raise InputError(f"weight file {path} is empty: copy or download it again")
    return _without_bom(start)


def _without_bom(start: bytes) -> bytes:
    """Text editors put a mark before UTF-8."""
    return start.removeprefix(b"\xef\xbb\xbf")


def _is_index(start: bytes) -> bool:
    return start.lstrip().startswith(b"{")


def _read_single(path: Path, start: bytes) -> dict[str, Any]:
    """The dict in one file that is no index."""
    is_verified = _verify(path, start)
    if start.startswith(ZIP_MAGIC):
        loaded = read_zip(path)
    elif start.startswith(LEGACY_MAGIC):
        loaded = read_legacy(path)
    elif is_safetensors(start):
        loaded = read_safetensors(path)
    elif start[:1] == b"\x80":
        raise refuse_pickle(path)
    else:
        raise InputError(f"weight file {path} {_what_else(start)}")
    if not isinstance(loaded, dict):
        raise InputError(f"weight file {path} holds a {type(loaded).__name__}, not a dict of tensors")
    if not is_verified:
        logger.info("%s has no checksum, so that damage inside its tensors would not be seen", path)
    return loaded


def _what_else(start: bytes) -> str:
    """What a file is that holds no weights, and what to do."""
    if start.startswith(_LFS_POINTER):
        return "is a Git LFS pointer, not the weights: run `git lfs pull` in its repository"
    if is_web_page(start):
        return "is a web page, not weights: download it again, the address may be wrong or need a login"
    for magic, what in _OTHER_FORMATS.items():
        if start.startswith(magic):
            return f"is {what}, not weights: give a PyTorch or safetensors file"
    if start[257:262] == b"ustar":
        return "is a tar archive (unpack it first), not weights: give a PyTorch or safetensors file"
    if all(byte >= ord(" ") or byte in b"\t\n\f\r" for byte in start):
        return "is text, not weights: give a PyTorch or safetensors file"
    return "is neither a PyTorch nor a safetensors file: copy or download it again, or give another"


def _read_shards(index: Path) -> dict[str, Any]:
    """The tensors that an index promises, from the files beside it."""
    weight_map = _weight_map(index)
    tensors: dict[str, Any] = {}
    for shard in sorted(set(weight_map.values())):
        path = index.with_name(shard)
        if not os.path.isfile(path):
            raise InputError(f"weight file {index} needs its shard {shard}, which is not there: download it too")
        loaded = _read_single(path, _start_of(path))
        promised = [name for name, place in weight_map.items() if place == shard]
        missing = [name for name in promised if name not in loaded]
        if missing:
            raise InputError(f"shard {path} lacks {missing[0]!r}, which {index.name} promises: download both again")
        tensors |= {name: loaded[name] for name in promised}
    return tensors


def _weight_map(index: Path) -> dict[str, str]:
    """Shard by tensor name; every shard is a plain file name, since data must not choose folders."""
    try:
        if index.stat().st_size > _INDEX_LIMIT:
            raise ValueError("no index is so long")
        content = json.loads(index.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        raise InputError(f"weight file {index} is text, not weights: give a PyTorch or safetensors file") from None
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"weight file {index} is JSON, but no index of shards (no weight_map): give the weights")
    for shard in weight_map.values():
        if not isinstance(shard, str) or not _is_plain(shard):
            raise InputError(f"weight file {index} names the shard {shard!r}: only files in its own folder are read")
    return weight_map


def _last_checkpoint(tag: Path) -> Path:
    """The file that detectron2 wrote last."""
    try:
        with open(tag, errors="replace") as file:
            name = file.read(_START_BYTES).strip()
    except OSError as error:
        raise InputError(f"{tag} cannot be opened ({error.strerror}): name the weight file itself") from None
    if not _is_plain(name) or not os.path.isfile(tag.parent / name):
        raise InputError(f"{tag} names {shown(name)}, which is no file in that folder: name the weight file itself")
    return tag.parent / name


def _is_plain(name: str) -> bool:
    """Whether a name stays in its folder on every system."""
    return name not in ("", ".", "..") and not set(name) & set("/\\:\0")
