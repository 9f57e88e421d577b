"""Reading weight files safely: tensors and plain Python values only, never code.

What a file is shows in its first bytes; its name is not looked at.
"""

from __future__ import annotations

import json
import os
import pickle
import pickletools
import re
import shlex
import zipfile
from pathlib import Path
from typing import Any

import torch

from hiera_det.errors import InputError

__all__ = ["STANDARD_FILES", "WEIGHT_SUFFIXES", "find_weight_file", "is_web_page", "read_weight_file", "shard_names"]

#: The names of published weights, in order of preference.
STANDARD_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
#: The endings of other weight files.
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")

_START_BYTES = 1024
_SHOWN = 5
#: safetensors refuses a longer header, so its length tells such a file from chance bytes.
_SAFETENSORS_HEADER_LIMIT = 100_000_000
_LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
#: Magic number, version, machine, the object, the keys of its storages; the storages' raw bytes follow.
_LEGACY_PICKLES = 5
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
#: Reads as it is told, keeps the dicts and tensors and saves them; for the user to run, where the file is trusted.
_CONVERT = (
    "import pickle, sys, torch; s = lambda x: getattr(x, 'state_dict', lambda: x)(); "
    "t = lambda x: {{k: torch.as_tensor(v) if hasattr(v, 'shape') else t(v) for k, v in s(x).items() "
    "if hasattr(v, 'shape') or isinstance(s(v), dict)}}; torch.save(t({read}), sys.argv[2])"
)
_READ_TORCH = "torch.load(open(sys.argv[1], 'rb'), 'cpu', weights_only=False)"
_READ_PICKLE = "pickle.load(open(sys.argv[1], 'rb'))"


def read_weight_file(path: str | Path) -> dict[str, Any]:
    """Read a PyTorch or safetensors file, or all shards that a Hugging Face index names, on the CPU.

    Args:
        path: a local file.

    Returns:
        the dict that was saved; for safetensors and shards the tensors by name.

    Raises:
        InputError: missing, unreadable, truncated, not a weight file, or a pickle that would run code.
    """
    path = Path(path)
    start = _start_of(path)
    if start.lstrip().startswith(b"{"):
        return _read_shards(path)
    return _read_single(path, start)


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


def _read_single(path: Path, start: bytes) -> dict[str, Any]:
    """The dict in one file that is no index."""
    if start.startswith(b"PK\x03\x04"):
        loaded = _read_zip(path)
    elif start.startswith(_LEGACY_MAGIC):
        loaded = _read_legacy(path)
    elif start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= _SAFETENSORS_HEADER_LIMIT:
        loaded = _read_safetensors(path)
    elif start[:1] == b"\x80":
        raise _refusal(path, "it is a bare Python pickle, not written by torch.save", _READ_PICKLE)
    else:
        raise InputError(f"weight file {path} {_what_else(start)}")
    if not isinstance(loaded, dict):
        raise InputError(f"weight file {path} holds a {type(loaded).__name__}, not a dict of tensors")
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


def _read_safetensors(path: Path) -> dict[str, Any]:
    """Tensors by name."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(
            f"weight file {path} is truncated or no safetensors file ({_one_line(error)}): copy or download it again"
        ) from None


def _read_zip(path: Path) -> Any:
    """What today's ``torch.save`` wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile:
        raise InputError(f"weight file {path} is truncated: copy or download it again") from None
    names = {entry.filename.rpartition("/")[2] for entry in entries}
    if "data.pkl" not in names:
        raise InputError(f"weight file {path} is a zip archive that torch.save did not write: unpack it first")
    if "constants.pkl" in names:
        raise _refusal(path, "it is a TorchScript program", _READ_TORCH)
    # Mapped tensors take memory only as they are read, but compressed ones would be taken for the values.
    return _read_torch(path, mmap=all(entry.compress_type == zipfile.ZIP_STORED for entry in entries))


def _read_legacy(path: Path) -> Any:
    """What ``torch.save`` wrote before PyTorch 1.6."""
    with open(path, "rb") as file:
        try:
            for _ in range(_LEGACY_PICKLES):
                for _ in pickletools.genops(file):
                    pass
        except ValueError:  # torch would take a name that is cut off for a forbidden one
            raise InputError(f"weight file {path} is truncated: copy or download it again") from None
    return _read_torch(path, mmap=False)


def _read_torch(path: Path, *, mmap: bool) -> Any:
    """What ``torch.save`` wrote, provided it needs no code to read."""
    try:
        if mmap and path.suffix != ".safetensors":  # which torch.load would believe
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
        with open(path, "rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        needed = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it needs {needed[1]}" if needed else "PyTorch's safe reader does not take it"
        raise _refusal(path, reason, _READ_TORCH) from None
    except Exception as error:  # broken bytes fail in torch's reader in many ways
        raise InputError(f"weight file {path} cannot be read ({_one_line(error)}): copy or download it again") from None


def _refusal(path: Path, reason: str, read: str) -> InputError:
    """The line for a file that only trust can read."""
    target = shlex.quote(str(path.with_name(f"{path.stem}.tensors.pth")))
    command = f'python -c "{_CONVERT.format(read=read)}" {shlex.quote(str(path))} {target}'
    return InputError(
        f"weight file {path} is refused: {reason}, and reading it could run code; "
        f"where you trust it, save its tensors alone: {command}"
    )


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
    name = tag.read_text(errors="replace").strip()
    if not _is_plain(name) or not os.path.isfile(tag.parent / name):
        raise InputError(f"{tag} names {name!r}, which is no file in that folder: name the weight file itself")
    return tag.parent / name


def _is_plain(name: str) -> bool:
    """Whether a name stays in its folder on every system."""
    return name not in ("", ".", "..") and not set(name) & set("/\\:\0")


def _one_line(error: Exception) -> str:
    """The first line of an error's text, or its kind."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
