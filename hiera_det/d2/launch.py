"""`hiera_det.launch` for detectron2, whose own 0.6 refuses several processes without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from detectron2.utils import comm

from hiera_det.launch import Place, place_from_environment
from hiera_det.launch import launch as launch_processes

__all__ = ["launch", "place_from_environment"]


def launch(main: Callable[..., object], args: tuple[Any, ...] = (), **options: Any) -> None:
    """`hiera_det.launch.launch`, with the groups of processes that ``detectron2.utils.comm`` asks for."""
    launch_processes(main, args, on_join=_make_local_groups, **options)


def _make_local_groups(place: Place) -> None:
    """detectron2's group of the processes on one machine."""
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(place.local_size)
        return
    for start in range(0, place.world_size, place.local_size):  # 0.6: its own launch sets this likewise
        group = dist.new_group(list(range(start, start + place.local_size)))
        if start <= place.rank < start + place.local_size:
            comm._LOCAL_PROCESS_GROUP = group
