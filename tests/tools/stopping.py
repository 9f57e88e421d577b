"""Sending a training that runs in this process the signal that a scheduler sends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_by_sigterm() -> Iterator[None]:
    """Send SIGTERM as soon as a training listens to it, by a method of its own."""
    over = threading.Event()

    def send() -> None:
        while getattr(signal.getsignal(signal.SIGTERM), "__self__", None) is None:
            if over.is_set():
                return
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        over.set()
        sender.join()
