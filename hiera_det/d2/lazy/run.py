"""A run of a LazyConfig, from what is asked for to its end; what goes wrong is said in the LazyConfig's words."""

from __future__ import annotations

from functools import partial

from hiera_det.d2.config.request import RunRequest
from hiera_det.d2.lazy.setup import setup_lazy_config, training_device
from hiera_det.d2.lazy.trainer import trainer_class
from hiera_det.d2.lazy.translate import naming_nodes
from hiera_det.d2.train.launch import launch_tool
from hiera_det.d2.train.run import begin_logging, run_detector
from hiera_det.engine.stop import stoppable

__all__ = ["start", "train_by_lazy_config"]


def start(request: RunRequest) -> None:
    """Train, or evaluate only; see `hiera_det.d2.train.run.start`."""
    with naming_nodes():
        check = partial(setup_lazy_config, request)
        launch_tool(train_by_lazy_config, request, check=check, device=training_device(request))


def train_by_lazy_config(request: RunRequest, check_files: bool) -> None:
    """Train, or evaluate only; called in every process.

    Args:
        request: what was asked for.
        check_files: look at each image file of own data.
    """
    with stoppable() as stop, naming_nodes():
        begin_logging()
        lazy, cfg = setup_lazy_config(request, check_files=check_files)
        run_detector(cfg, request, stop, trainer_class(lazy), lazy)
