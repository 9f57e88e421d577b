"""What a call needs that may not be installed."""

from __future__ import annotations

from hiera_det.errors import InputError

__all__ = ["need_detectron2"]


def need_detectron2() -> None:
    """Refuse to go on without detectron2; registers what the adapter adds to it.

    Raises:
        InputError: it is not installed, or cannot be imported; the line says how to get it.
        ModuleNotFoundError: something else is not installed, that it needs.
    """
    try:
        import hiera_det.d2  # noqa: F401
    except ModuleNotFoundError:
        raise
    except ImportError as error:
        raise InputError(str(error)) from None
