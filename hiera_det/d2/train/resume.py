"""Going on with a training: what must be there and the same, and whose options are in force."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.solver import LRMultiplier

from hiera_det.d2.config.changes import ALSO_KNOWN, CONTENT, changed_settings, derived_settings
from hiera_det.d2.config.kinds import same
from hiera_det.d2.train.hooks import EMAHook
from hiera_det.engine.checkpoint import check_unchanged
from hiera_det.engine.launch import is_restart
from hiera_det.errors import InputError
from hiera_det.weights.training_state import check_optimizer_state

logger = logging.getLogger("hiera_det.trainer")

__all__ = ["check_settings", "check_trainer_state", "own_options"]


def check_settings(
    folder: str,
    saved: Mapping[str, Any],
    own: Mapping[str, Any],
    allow_changed: Sequence[str],
    given: Sequence[str] = (),
) -> None:
    """Refuse to go on as another training.

    Args:
        folder: of the run, for the message.
        saved: the checkpoint's settings (`hiera_det.d2.config.changes.settings_of`); empty where it is older.
        own: this run's.
        allow_changed: keys that may differ.
        given: keys of the command line, which follow from no others.

    Raises:
        InputError: another key differs, with both values; or a key is none that is compared.
    """
    allowed = [ALSO_KNOWN.get(key, key) for key in allow_changed]
    if unknown := [key for key in allowed if key not in own or key == CONTENT]:
        raise InputError(f"--allow-changed {unknown[0]}: no key that a checkpoint is compared in")
    changed = changed_settings(saved, own)
    if is_restart():  # machines may have come or gone
        changed = [change for change in changed if change[0] != "processes"]
    before, now = ({key: values[place] for key, *values in changed} for place in (0, 1))
    check_unchanged(folder, before, now, [key for key in allowed if key in now], derived_settings(given))
    if "DATASETS.TRAIN" not in now and not same(saved.get("DATASETS.TRAIN"), own.get("DATASETS.TRAIN")):
        logger.info("the training data lie elsewhere than they did, or were written anew: their content is the same")


def check_trainer_state(
    state: Mapping[str, Any], optimizer: torch.optim.Optimizer, averages: bool, iterations: int
) -> None:
    """Refuse the state of a trainer of another kind, or of one that has gone further.

    Args:
        state: a checkpoint's ``trainer``.
        optimizer: of this run.
        averages: whether this run keeps an average of the weights.
        iterations: how many this run is to have done at its end.

    Raises:
        InputError: there is no optimizer in it, or another's; or no average where one is kept; or more is done.
    """
    if (done := state.get("iteration", -1) + 1) > iterations:
        raise InputError(
            f"--resume: {done} iterations are done, and SOLVER.MAX_ITER is {iterations}: give more, or begin anew"
        )
    if "_trainer" not in state:
        raise InputError(
            "--resume: the checkpoint holds no optimizer state; give it as MODEL.WEIGHTS and leave --resume out"
        )
    saved = state["_trainer"]["optimizer"]
    if ("betas" in saved["param_groups"][0]) != ("betas" in optimizer.param_groups[0]):
        # torch would take it, and miss a key at the first step
        raise InputError("--resume: the checkpoint is of another SOLVER.OPTIMIZER; resume with its own")
    if averages and EMAHook.__qualname__ not in state.get("hooks", {}):
        raise InputError("--resume: the checkpoint has no averaged weights; resume with SOLVER.EMA_DECAY 0.0")
    check_optimizer_state(saved, optimizer, "--resume: the checkpoint")


@contextmanager
def own_options(optimizer: torch.optim.Optimizer, scheduler: Any) -> Iterator[None]:
    """Keep this run's learning rates and the like in force over a loading of the checkpoint's.

    They are the same unless a user allowed them to differ, who means the new ones.
    """
    own = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    yield
    for group, options in zip(optimizer.param_groups, own, strict=True):
        group.update(options)
    if isinstance(scheduler, LRMultiplier):
        scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        for group, lr in zip(optimizer.param_groups, scheduler.get_lr(), strict=True):
            group["lr"] = lr
