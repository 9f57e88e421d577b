"""`hiera_det.engine.launch` for detectron2, whose own 0.6 refuses several processes without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from detectron2.utils import comm

from hiera_det.d2.config.request import RunRequest
from hiera_det.engine.launch import Place, place_from_environment
from hiera_det.engine.launch import launch as launch_processes

__all__ = ["launch", "launch_tool"]


def launch(main: Callable[..., object], args: tuple[Any, ...] = (), **options: Any) -> Any:
    """`hiera_det.engine.launch.launch`, with the groups of processes that ``detectron2.utils.comm`` asks for."""
    return launch_processes(main, args, on_join=_make_local_groups, **options)


def launch_tool(run: Callable[..., object], request: RunRequest, *, check: Callable[[], object], device: str) -> Any:
    """Run a training tool in as many processes as its command line, torchrun or srun asks for.

    Args:
        run: called with the request and with whether to look at each image file of own data.
        request: what the command line asks for.
        check: called once, where a mistake ends in one line, before this starts processes that would each say it.
        device: "cuda" or "cpu".

    Returns:
        what ``run`` does; see `hiera_det.engine.launch.launch`.
    """
    place = place_from_environment()
    several = request.num_gpus > 1 or request.num_machines > 1
    if several and not place:
        check()
    return launch(
        run,
        (request, place.local_rank == 0 if place else not several),
        num_processes=request.num_gpus,
        num_machines=request.num_machines,
        machine_rank=request.machine_rank,
        dist_url=request.dist_url,
        device=device,
        timeout=request.timeout,
    )


def _make_local_groups(place: Place) -> None:
    """detectron2's group of the processes on one machine."""
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(place.local_size)
        return
    for start in range(0, place.world_size, place.local_size):  # 0.6: its own launch sets this likewise
        group = dist.new_group(list(range(start, start + place.local_size)))
        if start <= place.rank < start + place.local_size:
            comm._LOCAL_PROCESS_GROUP = group
