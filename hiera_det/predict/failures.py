"""Which files could not be predicted, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hiera_det.data.images import BadImageError
from hiera_det.errors import printable

__all__ = ["Failures"]


class Failures:
    """Passes on which files failed and why; without a listener the failure itself goes on.

    Args:
        unreadable: gets a file's path and the reason, half a sentence.
    """

    def __init__(self, unreadable: Callable[[str, str], None] | None) -> None:
        self.unreadable = unreadable

    @contextmanager
    def of(self, *names: str) -> Iterator[None]:
        """What fails inside is the failure of these files."""
        try:
            yield
        except (BadImageError, RuntimeError, MemoryError) as error:  # RuntimeError: a GPU's lack of memory, for one
            if self.unreadable is None:
                raise
            what = " ".join(str(error).split())[:200] or type(error).__name__
            for name in names:
                bad = isinstance(error, BadImageError)
                self.unreadable(name, what.removeprefix(f"{printable(name)}: ") if bad else f"failed ({what})")
