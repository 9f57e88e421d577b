"""Packages that only some of the tools need."""

from __future__ import annotations

import importlib.util

from hiera_det.errors import InputError

__all__ = ["GET_DETECTRON2", "need"]

#: detectron2 is on no package index.
GET_DETECTRON2 = "hiera-det install-detectron2"


def need(package: str, what: str, to_install: str = "") -> None:
    """Refuse to start what an absent package would stop later.

    Args:
        package: its name in Python.
        what: what needs it, for the message.
        to_install: its name for pip, where that is another.

    Raises:
        InputError: it is not installed; the line says how to get it.
    """
    if importlib.util.find_spec(package) is None:
        raise InputError(f"{what} needs {package}: pip install {to_install or package}")
