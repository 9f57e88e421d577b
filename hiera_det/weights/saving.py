"""Writing tensors so that a reader sees the old file or the whole new one, with checksums in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hiera_det.files import StrPath, require_space, write_atomically
from hiera_det.weights.safetensors_file import write_safetensors
from hiera_det.weights.tensors import named_tensors

__all__ = ["SAFETENSORS", "save_tensors"]

SAFETENSORS = ".safetensors"


def save_tensors(path: StrPath, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values in one step, down to the disk.

    Args:
        path: a ``.safetensors`` file, for tensors by name alone; or any other, which becomes one of ``torch.save``.
        content: what `hiera_det.weights.sources.read_weight_file` will give back.

    Raises:
        hiera_det.files.WriteError: it cannot be written, or the disk has no room; the file is as it was.
    """
    path = Path(path)
    own = {id(tensor): tensor.nbytes for _, tensor in named_tensors(content, str(path))}
    require_space(path.parent, sum(own.values()))
    if path.suffix == SAFETENSORS:
        write_atomically(path, lambda file: write_safetensors(content, file))
    else:
        write_atomically(path, lambda file: torch.save(dict(content), file))
