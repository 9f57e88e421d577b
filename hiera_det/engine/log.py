"""The log of a run: on stderr and in its folder, from the main process."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hiera_det.engine.processes import is_main_process

__all__ = ["logged_to", "loggers_kept"]

LOG = "log.txt"


class _LogFile(logging.FileHandler):
    """A file that may have no room for a line, which is on stderr all the same."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Go on; the checkpoints say that the disk is full."""


@contextmanager
def logged_to(folder: str) -> Iterator[None]:
    """Send the main process's log to stderr and, appended, into ``log.txt`` of a folder; of the others only errors.

    Args:
        folder: is there.
    """
    ours = logging.getLogger("hiera_det")
    level = ours.level
    ours.setLevel(logging.INFO if is_main_process() else logging.ERROR)
    # Where the caller shows logs on the terminal, as after logging.basicConfig, it shows ours too.
    shown = any(getattr(handler, "stream", None) in (sys.stderr, sys.stdout) for handler in logging.root.handlers)
    handlers: list[logging.Handler] = [] if shown else [logging.StreamHandler(sys.stderr)]
    if is_main_process():
        handlers.append(_LogFile(os.path.join(folder, LOG), encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        ours.addHandler(handler)
    try:
        yield
    finally:
        ours.setLevel(level)
        for handler in handlers:
            ours.removeHandler(handler)
            handler.close()


@contextmanager
def loggers_kept(*names: str) -> Iterator[None]:
    """Put loggers back to the handlers and levels that the caller gave them, and close what came in between."""
    loggers = [logging.getLogger(name) for name in names]
    before = [(list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    try:
        yield
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            for handler in {*logger.handlers} - {*handlers}:
                handler.close()
                stream: Any = getattr(handler, "stream", None)
                if os.path.basename(str(getattr(stream, "name", ""))).startswith(LOG):  # detectron2 leaves it open
                    stream.close()
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)
