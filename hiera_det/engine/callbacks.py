"""What a caller hears of a training while it runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from hiera_det.engine.processes import is_main_process
from hiera_det.errors import InputError

__all__ = ["Callback", "Callbacks"]


class Callback:
    """What a training calls, in its first process, between its steps; override what you need.

    Any object will do that has one of these methods. What they raise ends the training, whose checkpoints stay.

    Example:
        class Watch(Callback):
            def on_evaluation(self, iteration, metrics):
                print(iteration, metrics)
    """

    def on_step(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """After each step: how many are done, and what is known of the last: losses, and the learning rate ``lr``."""

    def on_evaluation(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """After each evaluation: its metrics by the names of ``metrics.json``, such as ``bbox/AP`` or ``top1``."""

    def on_checkpoint(self, iteration: int, path: str) -> None:
        """After a checkpoint was written, the final weights too."""

    def on_end(self, iteration: int) -> None:
        """At the end of a training that came to it, when all is written."""


METHODS = [name for name in vars(Callback) if name.startswith("on_")]


class Callbacks(Callback):
    """Several as one.

    Args:
        listeners: objects with some of `Callback`'s methods.

    Raises:
        InputError: one has none of them, or another one that begins like them.
    """

    def __init__(self, listeners: Sequence[object] = ()) -> None:
        for listener in listeners:
            named = [name for name in dir(listener) if name.startswith("on_")]
            if not named or not set(named) <= set(METHODS):
                what = f"{named[0]} of {type(listener).__name__}" if named else repr(listener)
                raise InputError(f"callbacks: {what}: nothing calls it; give objects with {', '.join(METHODS)}")
        self.listeners = list(listeners)

    def add(self, listener: Callback) -> None:
        """Tell one more."""
        self.listeners.append(listener)

    def on_step(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Tell all that listen."""
        self._tell("on_step", iteration, metrics)

    def on_evaluation(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Tell all that listen."""
        self._tell("on_evaluation", iteration, metrics)

    def on_checkpoint(self, iteration: int, path: str | os.PathLike[str]) -> None:
        """Tell all that listen."""
        self._tell("on_checkpoint", iteration, os.fspath(path))

    def on_end(self, iteration: int) -> None:
        """Tell all that listen."""
        self._tell("on_end", iteration)

    def _tell(self, name: str, *what: object) -> None:
        for listener in self.listeners if is_main_process() else ():
            if method := getattr(listener, name, None):
                method(*what)
