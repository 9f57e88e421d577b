"""A detector's report, written after each evaluation of its training."""

from __future__ import annotations

from typing import Protocol

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm

from hiera_det.engine.best import Best
from hiera_det.report.detection import tell_detector_report
from hiera_det.report.threshold import keep_for_best

__all__ = ["ReportHook"]


class _Evaluated(Protocol):
    """What evaluates a training.

    Attributes:
        done: steps after which the last evaluation was.
        best: the best so far.
    """

    done: int
    best: Best


class ReportHook(HookBase):  # type: ignore[misc]
    """Writes the report after each evaluation, in the main process, when metrics are written.

    Args:
        cfg: for ``TEST.REPORT`` and ``OUTPUT_DIR``.
        evaluation: of the training.
    """

    def __init__(self, cfg: CfgNode, evaluation: _Evaluated) -> None:
        self.cfg, self.evaluation = cfg, evaluation

    def after_step(self) -> None:
        """After an evaluation in the middle of the training."""
        if self.evaluation.done == self.trainer.finished_steps:
            self._write()

    def after_train(self) -> None:
        """After the last evaluation."""
        if self.trainer.finished_steps >= self.trainer.max_iter:
            self._write()

    def _write(self) -> None:
        """Write it unless a stop is asked for: who asked waits."""
        if comm.is_main_process() and self.cfg.TEST.REPORT and not self.trainer.stop.requested:
            tell_detector_report(self.cfg.OUTPUT_DIR)
            if self.evaluation.best.value is not None and self.evaluation.best.iteration == self.evaluation.done:
                keep_for_best(self.cfg.OUTPUT_DIR)
