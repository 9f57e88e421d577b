"""The log of a run: on stderr and in its folder, from the main process."""

from __future__ import annotations

import errno
import io
import logging
import logging.handlers
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hiera_det.engine.processes import is_main_process, process_rank
from hiera_det.engine.talk import Terminal
from hiera_det.errors import InputError

__all__ = [
    "Kept",
    "LogFile",
    "LogStream",
    "PlainFormatter",
    "logged_to",
    "loggers_kept",
    "outlasting",
    "warnings_logged",
]

LOG = "log.txt"
#: Colours, and whatever else moves a terminal.
ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
#: More lines than a set-up says.
MOST_LINES = 100_000


class PlainFormatter(logging.Formatter):
    """Lines for a file: without the colours that others put into them."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as text."""
        return ESCAPES.sub("", super().format(record))


class Kept(logging.handlers.MemoryHandler):
    """Keeps lines until there is a file for them."""

    def __init__(self) -> None:
        super().__init__(MOST_LINES, flushLevel=logging.CRITICAL + 1, flushOnClose=False)


class LogStream(io.TextIOBase):
    """Takes what others print, and logs it line by line.

    Args:
        logger: as whose lines.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger, self._line = logger, ""

    def write(self, text: str) -> int:
        """As a file's."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._logger.info("%s", line)
        return len(text)


@contextmanager
def warnings_logged() -> Iterator[None]:
    """Python's warnings go to the logger ``py.warnings``, once each from one place; afterwards as before."""
    with warnings.catch_warnings():
        logging.captureWarnings(True)
        try:
            yield
        finally:
            logging.captureWarnings(False)


class LogFile(logging.FileHandler):
    """``log.txt`` of a folder, which may have no room for a line, which is on stderr all the same.

    Raises:
        InputError: it cannot be opened.
    """

    def __init__(self, folder: str) -> None:
        rank = process_rank()
        path = os.path.join(folder, LOG + (f".rank{rank}" if rank else ""))
        try:
            super().__init__(path, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); choose another folder") from None

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Go on; the checkpoints say that the disk is full."""


@contextmanager
def logged_to(folder: str) -> Iterator[None]:
    """Send the main process's log into ``log.txt`` of a folder, and what people need to stderr; of the others errors.

    Args:
        folder: is there.
    """
    ours = logging.getLogger("hiera_det")
    level = ours.level
    ours.setLevel(logging.INFO if is_main_process() else logging.ERROR)
    # Where the caller shows logs on the terminal, as after logging.basicConfig, it shows ours too.
    shown = any(getattr(handler, "stream", None) in (sys.stderr, sys.stdout) for handler in logging.root.handlers)
    handlers: list[logging.Handler] = [] if shown else [Terminal(sys.stderr)]
    if is_main_process():
        handlers.append(LogFile(folder))
        handlers[-1].setFormatter(PlainFormatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    for handler in handlers:
        ours.addHandler(handler)
    try:
        yield
    finally:
        ours.setLevel(level)
        for handler in handlers:
            ours.removeHandler(handler)
            handler.close()


class _Outlasting:
    """A process's own terminal, pipe or file, which may be gone or full before the training is done."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As the stream's; nothing is said where nobody listens."""
        with self._or_silence():
            return int(self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """As the stream's."""
        with self._or_silence():
            self._stream.flush()

    @contextmanager
    def _or_silence(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # where a disk is full, there may be room again
            if error.errno in (errno.EPIPE, errno.EIO):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


@contextmanager
def outlasting() -> Iterator[None]:
    """Let a training go on whose terminal is gone, or that was started without one; a caller's streams stay."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is getattr(sys, f"__{name}__"):
                setattr(sys, name, _Outlasting(stream) if stream else nowhere)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


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
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)
