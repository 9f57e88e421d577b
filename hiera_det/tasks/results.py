"""What a training leaves when it is through."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from hiera_det.engine.checkpoint import FINAL
from hiera_det.engine.loop import Loop
from hiera_det.engine.processes import is_main_process
from hiera_det.engine.sharding import gather
from hiera_det.report.curves import draw_curves
from hiera_det.weights.model_file import write_model_file

__all__ = ["write_results"]

logger = logging.getLogger("hiera_det.training")

FINAL_EMA = FINAL.replace(".pth", "_ema.pth")


def write_results(loop: Loop, fields: Mapping[str, Any], classes: Sequence[str] = ()) -> None:
    """Write ``model_final.pth`` and ``curves.png``, and log where they are; the averaged weights lie beside.

    Args:
        loop: is through; all processes must call this.
        fields: see `write_model_file`.
        classes: see there.

    Raises:
        InputError: the weights cannot be written.
    """
    states = {FINAL: gather(loop.model.state_dict())}
    if loop.ema:
        states[FINAL_EMA] = loop.ema.model_state()
    if not is_main_process():
        return
    folder = loop.checkpoints.folder
    for name, state in states.items():
        write_model_file(str(folder / name), state, fields, classes)
    loop.checkpoints.tag(FINAL)
    try:
        logger.info("curves: %s", draw_curves(folder))
    except OSError as error:  # a picture is no reason for a training to have failed
        logger.warning("the curves could not be drawn: %s", error.strerror or error)
    logger.info("weights: %s", folder / FINAL)
