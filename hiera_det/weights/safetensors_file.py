"""safetensors files. The format has no checksum, so ours carry one in their metadata."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from hiera_det.errors import InputError
from hiera_det.weights.torch_file import NAMES_LIMIT, one_line

__all__ = ["is_safetensors", "read_safetensors", "verify_safetensors", "write_safetensors"]

#: The library refuses a longer header, so its length tells such a file from chance bytes.
_HEADER_LIMIT = 100_000_000
#: Names that a header may hold; the largest Hiera in a detector has under 2,000.
_TENSORS_LIMIT = 100_000
_METADATA = "__metadata__"
#: Who wrote a file says that it must have a checksum, even where the entry is damaged.
_WRITER = {"format": "pt", "written_by": "hiera_det"}
_CHECKSUM = "crc32"
_CHUNK = 1 << 20


def is_safetensors(start: bytes) -> bool:
    """Whether a file that starts like this is one."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= _HEADER_LIMIT


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name, once `verify_safetensors` has looked at the file.

    Raises:
        InputError: it is cut off or none.
    """
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # broken headers fail in the library in many ways
        raise _damaged(path, one_line(error)) from None


def verify_safetensors(path: Path) -> bool:
    """Compare a file of ours with its checksum; those of others have none.

    Returns:
        whether it has one.

    Raises:
        InputError: they differ; or the header cannot be read, or has more names than any model.
    """
    with open(path, "rb") as file:
        header = _header(path, file)
        metadata = header.pop(_METADATA, None)
        if len(header) > _TENSORS_LIMIT:
            raise InputError(f"weight file {path} names {len(header)} tensors: no model of ours has so many")
        metadata = metadata if isinstance(metadata, dict) else {}
        has_one = _CHECKSUM in metadata or metadata.get("written_by") == _WRITER["written_by"]
        if has_one and metadata.get(_CHECKSUM) != _checksum(header, file):
            raise _damaged(path, "it does not match its checksum")
        return has_one


def write_safetensors(tensors: Mapping[str, Tensor], file: IO[bytes]) -> None:
    """Write tensors with a checksum.

    Args:
        tensors: those that share memory are written each for itself.
        file: open for writing and reading.
    """
    from safetensors.torch import save

    written = memoryview(save(_apart(tensors)))
    start = 8 + int.from_bytes(written[:8], "little")
    header = json.loads(bytes(written[8:start]))
    checksum = zlib.crc32(written[start:], _header_checksum(header))
    header = {_METADATA: {**_WRITER, _CHECKSUM: f"{checksum:08x}"}, **header}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # the tensors begin at a multiple of 8
    file.write(len(encoded).to_bytes(8, "little") + encoded)
    file.write(written[start:])


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of which no two share memory, as slices of one do; the library refuses those."""
    apart, taken = {}, set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        storage = tensor.untyped_storage()
        if storage.nbytes() != tensor.nbytes or storage.data_ptr() in taken:
            tensor = tensor.clone()
        apart[name] = tensor
        taken.add(tensor.untyped_storage().data_ptr())
    return apart


def _header(path: Path, file: IO[bytes]) -> dict[str, Any]:
    """A file's names, types and places; the file is then at the tensors."""
    length = int.from_bytes(file.read(8), "little")
    if length > NAMES_LIMIT:
        raise InputError(f"weight file {path} has {length} bytes of names and shapes: no model has so many")
    encoded = file.read(length)
    if len(encoded) < length:
        raise _damaged(path, "its header is cut off")
    try:
        header = json.loads(encoded)
    except (ValueError, RecursionError):
        raise _damaged(path, "its header is no JSON") from None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no dict")
    return header


def _checksum(header: Mapping[str, Any], file: IO[bytes]) -> str:
    """The checksum of names, types, places and of the rest of the file."""
    checksum = _header_checksum(header)
    while chunk := file.read(_CHUNK):
        checksum = zlib.crc32(chunk, checksum)
    return f"{checksum:08x}"


def _header_checksum(header: Mapping[str, Any]) -> int:
    """The same however the header is laid out."""
    return zlib.crc32(json.dumps(header, sort_keys=True).encode())


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"weight file {path} is truncated or no safetensors file ({what}): copy or download it again")
