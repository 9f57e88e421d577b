"""Reading a weight file safely: tensors and plain Python values only, never code."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from hiera_det.errors import InputError

__all__ = ["read_weight_file"]


def read_weight_file(path: str | Path) -> dict[str, Any]:
    """Read a PyTorch or safetensors file on the CPU.

    Args:
        path: a local file.

    Returns:
        the dict that was saved; for safetensors the tensors by name.

    Raises:
        InputError: missing, truncated, not a weight file, or a pickle that would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"weight file {path} does not exist: check MODEL.WEIGHTS")
    if path.stat().st_size == 0:
        raise InputError(f"weight file {path} is empty: copy or download it again")
    loaded = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if not isinstance(loaded, dict):
        raise InputError(f"weight file {path} holds a {type(loaded).__name__}, not a dict of tensors")
    return loaded


def _read_safetensors(path: Path) -> dict[str, Any]:
    """Tensors by name."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(
            f"weight file {path} is not a whole safetensors file ({error}): copy or download it again"
        ) from None


def _read_torch(path: Path) -> Any:
    """What ``torch.save`` wrote, provided it needs no code to read."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        if zipfile.is_zipfile(path) or "Unsupported" in reason or "weights_only" in str(error).lower():
            raise InputError(
                f"weight file {path} is refused: it is no plain PyTorch weight file, and reading it could run code; "
                "save its state dict again with torch.save where you trust it"
            ) from None
        raise InputError(f"weight file {path} cannot be read ({reason}): copy or download it again") from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"weight file {path} cannot be read ({reason}): copy or download it again") from None
