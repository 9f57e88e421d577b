"""A run of a LazyConfig, from what is asked for to its end; what goes wrong is said in the LazyConfig's words."""

from __future__ import annotations

from hiera_det.d2.config.request import RunRequest
from hiera_det.d2.lazy.setup import setup_lazy_config, training_device
from hiera_det.d2.lazy.trainer import trainer_class
from hiera_det.d2.lazy.translate import naming_nodes
from hiera_det.d2.train.launch import launch_tool
from hiera_det.d2.train.run import log_to, train_or_evaluate

__all__ = ["start"]


def start(request: RunRequest) -> None:
    """Train, or evaluate only; see `hiera_det.d2.train.run.start`."""
    with naming_nodes():
        launch_tool(_run, request, check=lambda: setup_lazy_config(request), device=training_device(request))


def _run(request: RunRequest, check_files: bool) -> None:
    """Runs in every process."""
    with naming_nodes():
        log_to(None)
        lazy, cfg = setup_lazy_config(request, check_files=check_files)
        train_or_evaluate(trainer_class(lazy), lazy, cfg, request)
