"""What a training says of itself every 20 steps: detectron2's log line, and speed, data loading, memory and epoch."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    TensorboardXWriter,
    get_event_storage,
)
from fvcore.common.history_buffer import HistoryBuffer

from hiera_det.engine.events import MetricsFile
from hiera_det.engine.loggers import open_loggers
from hiera_det.engine.progress import peak_memory

logger = logging.getLogger("hiera_det.training")

__all__ = ["BoundedStorage", "MetricsWriter", "Throughput", "build_writers"]

#: Steps over which the printed figures are medians, as detectron2's losses.
WINDOW = 20
#: Values of each metric that are kept: as many as detectron2's forecast of the end is a median of.
KEPT = 1000


class BoundedStorage(EventStorage):  # type: ignore[misc]
    """detectron2's, which would keep every value of a run: 3 KB of memory for each step."""

    def __init__(self, start_iter: int = 0) -> None:
        super().__init__(start_iter)
        self._history: MutableMapping[str, HistoryBuffer] = defaultdict(partial(HistoryBuffer, KEPT))


class Throughput(HookBase):  # type: ignore[misc]
    """Puts ``images_per_second``, ``data_share``, ``peak_memory_mib`` and ``epoch`` among the metrics.

    Args:
        images_per_step: of all processes together.
        images_per_epoch: 0 where unknown; then there is no ``epoch``.
    """

    def __init__(self, images_per_step: int, images_per_epoch: int = 0) -> None:
        self.images_per_step = images_per_step
        self.images_per_epoch = images_per_epoch

    def after_step(self) -> None:
        """Put this step's figures; detectron2 gives the time of a step from the fourth on."""
        storage = self.trainer.storage
        latest = storage.latest()
        time = latest.get("time", (0.0, -1))[0]
        if time:
            storage.put_scalar("images_per_second", self.images_per_step / time)
            if "data_time" in latest:
                storage.put_scalar("data_share", min(1.0, latest["data_time"][0] / time))
        storage.put_scalar("peak_memory_mib", peak_memory(), smoothing_hint=False)
        if self.images_per_epoch:
            seen = (self.trainer.iter + 1) * self.images_per_step
            storage.put_scalar("epoch", seen / self.images_per_epoch, smoothing_hint=False)


class MetricsWriter(EventWriter):  # type: ignore[misc]
    """``metrics.json`` as detectron2 writes it, each iteration once, and JSON where a value is not finite; loggers too.

    Args:
        folder: where the file is.
        loggers: of `hiera_det.engine.loggers`.
    """

    def __init__(self, folder: str, loggers: Sequence[str] = ()) -> None:
        self.folder, self.loggers = folder, loggers
        self._files: list[Any] = []
        self._last_write = -1  # also detectron2's name for it, in its own writer for TensorBoard

    def open(self, steps: int) -> int:
        """Begin to write where so many steps are done: lines of later ones, about to come again, are dropped.

        Returns:
            the last iteration of which there is a line; -1 for none.
        """
        metrics = MetricsFile(self.folder, steps - 1)
        self._files = [metrics, *open_loggers(self.loggers, self.folder, steps)]
        self._last_write = metrics.last
        return self._last_write

    def write(self) -> None:
        """Add what is new in the current event storage."""
        if not self._files:
            self.open(0)
        lines: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(WINDOW).items():
            if iteration > self._last_write:
                lines[iteration][name] = value
        for iteration, values in sorted(lines.items()):
            for file in self._files:
                file.add(**dict(sorted({**values, "iteration": iteration}.items())))
            self._last_write = iteration

    def close(self) -> None:
        """Write what is still in memory."""
        for file in self._files:
            file.close()


def build_writers(
    output_dir: str, max_iter: int, images_per_step: int = 0, images_per_epoch: int = 0, loggers: Sequence[str] = ()
) -> list[EventWriter]:
    """detectron2's writers, the printer with this project's figures at the end of its line.

    Args:
        output_dir: where ``metrics.json`` and TensorBoard's events go.
        max_iter: steps of the whole training.
        images_per_step: as given to `Throughput`.
        images_per_epoch: as given to `Throughput`.
        loggers: as given to `MetricsWriter`.
    """
    os.makedirs(output_dir, exist_ok=True)
    printer = CommonMetricPrinter(max_iter)
    printer.logger = _Line(printer.logger, max_iter * images_per_step / (images_per_epoch or 1))
    return [printer, MetricsWriter(output_dir, loggers), _TensorBoard(output_dir)]


class _TensorBoard(TensorboardXWriter):  # type: ignore[misc]
    """detectron2's, whose file may become unwritable; ``metrics.json`` has the same."""

    lost = False

    def write(self) -> None:
        """Add what is new."""
        with self._or_without():
            super().write()

    def close(self) -> None:
        """Write what is still in memory."""
        with self._or_without():
            super().close()

    @contextmanager
    def _or_without(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self.lost:
                logger.error("TensorBoard's file cannot be written (%s); from here on it is not", error.strerror)
            self.lost = True


class _Line(logging.LoggerAdapter):  # type: ignore[type-arg]
    """detectron2's log line, whose beginning scripts look for, with more at its end."""

    def __init__(self, logger: logging.Logger, epochs: float) -> None:
        super().__init__(logger, {})
        self.epochs = epochs

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        storage = get_event_storage()
        histories = storage.histories()
        figures = []
        if "epoch" in histories:
            figures.append(f"epoch: {histories['epoch'].latest():.2f}/{self.epochs:.4g}")
        if "images_per_second" in histories:
            figures.append(f"images/s: {histories['images_per_second'].median(WINDOW):.3g}")
        if "data_share" in histories:
            figures.append(f"data loading: {histories['data_share'].median(WINDOW):.0%}")
        if "peak_memory_mib" in histories and "max_mem" not in str(msg):
            figures.append(f"peak memory: {histories['peak_memory_mib'].latest():.0f}M")
        return "  ".join([str(msg).rstrip(), *figures]), kwargs
