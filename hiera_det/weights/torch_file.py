"""Files of ``torch.save``: every record's checksum is looked at, and nothing is read that needs code to run."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import shlex
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from hiera_det.errors import InputError
from hiera_det.weights.tensors import shown

__all__ = [
    "LEGACY_MAGIC",
    "NAMES_LIMIT",
    "ZIP_MAGIC",
    "one_line",
    "read_legacy",
    "read_zip",
    "refuse_pickle",
    "verify_zip",
]

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
#: Magic number, version, machine, the object, the keys of its storages; the storages' raw bytes follow.
_LEGACY_PICKLES = 5
#: Bytes of a file's structure, without its tensors; that of Hiera-H with its optimizer has half a million.
NAMES_LIMIT = 32 << 20
#: What a compressed file may unpack to: as many times its size, or this many bytes.
_UNPACKED_TIMES, _UNPACKED_LIMIT = 20, 1 << 30
#: What builds tensors that are no plain arrays. torch keeps those that it could not finish, and looks at them again
#: when it reads the next file, so that they are refused before it sees them.
_ODD = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_qtensor": "a quantised tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor without values (device meta)",
    "_rebuild_wrapper_subclass": "a tensor of a class of its own",
}
_AGAIN = "copy or download it again"
#: Reads as it is told, keeps the dicts and tensors and saves them; for the user to run, where the file is trusted.
_CONVERT = (
    "import pickle, sys, torch; s = lambda x: getattr(x, 'state_dict', lambda: x)(); "
    "t = lambda x: {{k: torch.as_tensor(v) if hasattr(v, 'shape') else t(v) for k, v in s(x).items() "
    "if hasattr(v, 'shape') or isinstance(s(v), dict)}}; torch.save(t({read}), sys.argv[2])"
)
_READ_TORCH = "torch.load(open(sys.argv[1], 'rb'), 'cpu', weights_only=False)"
_READ_PICKLE = "pickle.load(open(sys.argv[1], 'rb'))"


def read_zip(path: Path) -> Any:
    """What today's ``torch.save`` wrote, once `verify_zip` has looked at it.

    Raises:
        InputError: it needs code to be read, or has tensors that are no plain arrays.
    """
    with zipfile.ZipFile(path) as archive:
        entries = _records(archive)
        structure = next(entry for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl")
        _check_pickles(path, io.BytesIO(archive.read(structure)), 1)
    # Mapped tensors take memory only as they are read, but compressed ones would be taken for the values.
    return _load(path, mmap=all(entry.compress_type == zipfile.ZIP_STORED for entry in entries))


def verify_zip(path: Path) -> None:
    """Compare each record with the CRC-32 that ``torch.save`` wrote beside it, at some 3 GB/s.

    Raises:
        InputError: one differs, or the file is cut off, is a program, or is another program's archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_records(path, archive.infolist())
            _records(archive)
            damaged = archive.testzip()
    except InputError:
        raise
    except zipfile.BadZipFile:
        raise InputError(f"weight file {path} is truncated or damaged: {_AGAIN}") from None
    except Exception as error:  # broken names, sizes and flags fail in zipfile in many ways
        raise InputError(f"weight file {path} is damaged ({one_line(error)}): {_AGAIN}") from None
    if damaged is not None:
        raise InputError(f"weight file {path} is damaged: {damaged!r} in it does not match its checksum; {_AGAIN}")


def _records(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """An archive's records."""
    entries = archive.infolist()
    if not any(entry.CRC for entry in entries):  # torch was told to write none
        for entry in entries:
            del entry.CRC  # what is not there, zipfile does not compare
    return entries


def _check_records(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Refuse archives of others, and what would grow without bound when it is read."""
    sizes = {entry.filename.rpartition("/")[2]: entry.file_size for entry in entries}
    if [entry.filename.rpartition("/")[2] for entry in entries].count("data.pkl") != 1:
        raise InputError(f"weight file {path} is a zip archive that torch.save did not write: unpack it first")
    if "constants.pkl" in sizes:
        raise _refusal(path, "it is a TorchScript program", _READ_TORCH)
    if sizes["data.pkl"] > NAMES_LIMIT:
        raise InputError(f"weight file {path} has {sizes['data.pkl']} bytes of names and shapes: no model has so many")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > max(_UNPACKED_LIMIT, _UNPACKED_TIMES * path.stat().st_size):
        raise InputError(f"weight file {path} is compressed, and would unpack to {unpacked} bytes: unpack it by hand")


def read_legacy(path: Path) -> Any:
    """What ``torch.save`` wrote before PyTorch 1.6; it has no checksums.

    Raises:
        InputError: it is cut off, or needs code to be read.
    """
    with open(path, "rb") as file:
        _check_pickles(path, file, _LEGACY_PICKLES)
    return _load(path, mmap=False)


def _check_pickles(path: Path, file: IO[bytes], count: int) -> None:
    """Look at a file's structure without building anything of it.

    Raises:
        InputError: it is cut off, has no end, or has tensors that are no plain arrays.
    """
    last = ""
    try:
        for _ in range(count):
            for _, argument, place in pickletools.genops(file):
                if place is not None and place > NAMES_LIMIT:
                    raise InputError(f"weight file {path} has more names and shapes than any model")
                if isinstance(argument, str):
                    if odd := _ODD.get(argument.rpartition(" ")[2]):
                        near = f" (near {shown(last)})" if last else ""
                        raise InputError(f"weight file {path} holds {odd}{near}: save plain tensors")
                    last = argument
    except InputError:
        raise
    except Exception:  # torch would take a name that is cut off for a forbidden one
        raise InputError(f"weight file {path} is truncated or damaged: {_AGAIN}") from None


def _load(path: Path, *, mmap: bool) -> Any:
    """What ``torch.save`` wrote, provided it needs no code to read."""
    try:
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore")  # torch remarks on kinds of tensors that are refused a moment later
            # A name that ends in .safetensors torch.load would believe.
            from_name = mmap and path.suffix != ".safetensors"
            return torch.load(str(path) if from_name else file, map_location="cpu", weights_only=True, mmap=from_name)
    except pickle.UnpicklingError as error:
        needed = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it needs {needed[1]}" if needed else "PyTorch's safe reader does not take it"
        raise _refusal(path, reason, _READ_TORCH) from None
    except Exception as error:  # broken bytes fail in torch's reader in many ways
        raise InputError(f"weight file {path} cannot be read ({one_line(error)}): {_AGAIN}") from None


def refuse_pickle(path: Path) -> InputError:
    """The line for a pickle of Python's own."""
    return _refusal(path, "it is a bare Python pickle, not written by torch.save", _READ_PICKLE)


def _refusal(path: Path, reason: str, read: str) -> InputError:
    """The line for a file that only trust can read."""
    target = shlex.quote(str(path.with_name(f"{path.stem}.tensors.pth")))
    command = f'python -c "{_CONVERT.format(read=read)}" {shlex.quote(str(path))} {target}'
    return InputError(
        f"weight file {path} is refused: {reason}, and reading it could run code; "
        f"where you trust it, save its tensors alone: {command}"
    )


def one_line(error: BaseException) -> str:
    """The first line of a library's error."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
