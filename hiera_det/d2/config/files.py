"""The file that a config's name stands for: a path, or one of those that come with this project."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import hiera_det
from hiera_det.errors import InputError

__all__ = ["OWN_CONFIGS", "find_config", "listed_configs"]

PACKAGE = Path(hiera_det.__file__).resolve().parent
#: This project's own configs: in an installed package, or beside the package in a clone.
OWN_CONFIGS = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"


def find_config(name: str, kind: str = "*.yaml") -> str:
    """The path of a config.

    Args:
        name: a path; or a name from `OWN_CONFIGS`, such as ``mask_rcnn_hiera_b``, with or without folder and ending.
        kind: which of that folder's files may be meant, as a pattern from there.

    Raises:
        InputError: there is no such file; the nearest name is given.
    """
    if os.path.isfile(name):
        return name
    ours = _ours(kind)
    folder, stem = os.path.split(name.removesuffix(Path(kind).suffix))
    if stem in ours and Path(folder) in (Path(), "configs" / Path(kind).parent):
        return str(ours[stem])
    close = difflib.get_close_matches(stem, ours, n=1)
    raise InputError(f"--config-file {name}: no such file" + (f"; did you mean {close[0]}?" if close else ""))


def listed_configs(kind: str) -> str:
    """The names of this project's own configs, in words."""
    return ", ".join(_ours(kind)) or "the project's folder configs"


def _ours(kind: str) -> dict[str, Path]:
    return {path.stem: path for path in sorted(OWN_CONFIGS.glob(kind))}
