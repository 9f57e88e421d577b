"""What becomes of files that cannot be read: ``INPUT.ON_BAD_IMAGE`` and ``--on-bad-image``, the same for all tools."""

from __future__ import annotations

import logging
import multiprocessing
import sys

from hiera_det.errors import InputError

__all__ = ["ON_BAD_IMAGE", "BadImages"]

logger = logging.getLogger("hiera_det.data")

#: End the run with one line, or go on without the image.
ON_BAD_IMAGE = ("fail", "skip")


class BadImages:
    """Refuses images that cannot be read, or counts them over all worker processes of a loader.

    Args:
        action: one of `ON_BAD_IMAGE`.
        word: the key or flag that said so, for the message.

    Raises:
        InputError: the action is unknown.
    """

    def __init__(self, action: str = "fail", word: str = "INPUT.ON_BAD_IMAGE") -> None:
        if action not in ON_BAD_IMAGE:
            raise InputError(f"{word} {action!r}: choose {' or '.join(ON_BAD_IMAGE)}")
        self.action, self.word = action, word
        # Shared with the workers, which are started with this object. Forked ones need no named semaphore, of which one
        # would be left behind where a process of several ends without taking its interpreter down.
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
        self._count = context.Value("q", 0)
        self._told: set[str] = set()

    @property
    def count(self) -> int:
        """How many times an image was left out; one that comes again counts again."""
        return int(self._count.value)

    def add(self, error: InputError) -> None:
        """Take the refusal of one file, which is named in the log the first time.

        Raises:
            InputError: the refusal itself, where the action is "fail".
        """
        if self.action == "fail":
            raise error
        with self._count.get_lock():
            self._count.value += 1
        if str(error) not in self._told:
            self._told.add(str(error))
            logger.warning("%s: left out (%s skip)", error, self.word)
