"""What a training leaves when it is through."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from hiera_det.engine.checkpoint import FINAL, tag_last
from hiera_det.engine.processes import is_main_process
from hiera_det.modeling.hiera import HieraBase
from hiera_det.report.curves import draw_curves
from hiera_det.weights.model_file import write_model_file

__all__ = ["leave_results"]

logger = logging.getLogger("hiera_det.training")


def leave_results(output: str, model: HieraBase, fields: Mapping[str, Any], classes: Sequence[str] = ()) -> None:
    """Write ``model_final.pth`` and ``curves.png`` from the main process, and log where they are.

    Args:
        output: the folder of the training.
        model: as trained.
        fields: see `write_model_file`.
        classes: see there.

    Raises:
        InputError: the weights cannot be written.
    """
    if not is_main_process():
        return
    final = os.path.join(output, FINAL)
    write_model_file(final, model, fields, classes)
    tag_last(output, FINAL)
    try:
        logger.info("curves: %s", draw_curves(output))
    except OSError as error:  # a picture is no reason for a training to have failed
        logger.warning("the curves could not be drawn: %s", error.strerror or error)
    logger.info("weights: %s", final)
