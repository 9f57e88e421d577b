"""Seconds of computing: the process's own on a CPU, whoever else keeps the machine busy; on a GPU the wall clock's."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage

from hiera_det.d2.train.trainer import Trainer

__all__ = ["SPENT", "Clock", "seconds_now", "step_seconds"]

#: In ``metrics.json``: seconds that the steps so far have taken.
SPENT = "training_seconds"
#: Rounds over all detectors, and steps of each in a round: before those that count, and these.
ROUNDS, WARM, COUNTED = 3, 2, 6


def seconds_now(device: str) -> float:
    """A clock's hand. On a GPU all that is under way is waited for, and the GPU should be ours alone."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


class Clock(HookBase):  # type: ignore[misc]
    """Puts `SPENT` among the metrics: steps with their data and averages, without evaluations and checkpoints."""

    def __init__(self) -> None:
        self.spent = self._began = 0.0

    def before_step(self) -> None:
        """Look at the clock."""
        self._began = seconds_now(self.trainer.cfg.MODEL.DEVICE)

    def after_step(self) -> None:
        """Count this step."""
        self.spent += seconds_now(self.trainer.cfg.MODEL.DEVICE) - self._began
        self.trainer.storage.put_scalar(SPENT, self.spent, smoothing_hint=False)

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on must know."""
        return {"spent": self.spent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.spent = state["spent"]


def step_seconds(configs: Mapping[str, CfgNode]) -> dict[str, float]:
    """Seconds of a training step of each config, the median over rounds in which each has its turn.

    Args:
        configs: checked and frozen; of one seed, so that all see the same images.
    """
    rounds = [{name: _measure(cfg) for name, cfg in configs.items()} for _ in range(ROUNDS)]
    return {name: statistics.median(found[name] for found in rounds) for name in configs}


def _measure(cfg: CfgNode) -> float:
    """The mean over steps of a detector that is built for it; nothing is kept."""
    cfg = cfg.clone()
    cfg.defrost()
    with tempfile.TemporaryDirectory() as cfg.OUTPUT_DIR:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        spent = 0.0
        with EventStorage(0) as trainer.storage:
            for trainer.iter in range(WARM + COUNTED):
                trainer.storage.iter = trainer.iter
                began = seconds_now(cfg.MODEL.DEVICE)
                trainer.run_step()
                spent += seconds_now(cfg.MODEL.DEVICE) - began if trainer.iter >= WARM else 0.0
        trainer._trainer.close()
    return spent / COUNTED
