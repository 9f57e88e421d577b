"""Processes: started here, or joined where torchrun or SLURM has started them.

gloo serves CPUs and NCCL serves GPUs, and three ways lead to the same group of processes:

- ``--num-gpus`` and ``--num-machines``, as detectron2 has them: processes are started on this machine;
- ``torchrun``: ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``LOCAL_WORLD_SIZE``, ``MASTER_ADDR``, ``MASTER_PORT``;
- ``srun``: ``SLURM_PROCID``, ``SLURM_STEP_NUM_TASKS``, ``SLURM_LOCALID``, ``SLURM_STEP_NUM_NODES`` and the first host
  of the job.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType, ModuleType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from hiera_det.engine.machine import available_cores
from hiera_det.engine.stop import SIGNALS, StopRequested, heard, held_back, ignore_signals
from hiera_det.errors import EXIT_BAD_INPUT, InputError, exit_status, leave, run_tool

__all__ = ["Place", "is_restart", "launch", "place_from_environment"]

#: Minutes for which a process waits for the others, who may be downloading weights or evaluating.
TIMEOUT = 30.0
MOST_MINUTES = 100_000
#: Seconds for which it tries an address at which the first process may be no more.
ATTEMPT = 2.0
#: Where torchrun's store says where the first process of the present attempt is.
ADDRESS_KEY = "hiera_det/address"
#: Files in which processes that were started leave the line with which the first of them ends, and what was found.
SAID, VALUE = "said", "value"


class Place(NamedTuple):
    """Where a process stands among all.

    Attributes:
        rank: its number among all processes.
        world_size: how many there are.
        local_rank: its number on its machine, and that of its GPU.
        local_size: how many there are on its machine.
        address: where they meet, ``tcp://host:port`` or ``env://``.
    """

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    address: str


class Job(NamedTuple):
    """What every process runs once it has met the others; see `launch`."""

    main: Callable[..., object]
    args: tuple[Any, ...]
    device: str
    on_join: Callable[[Place], object] | None
    timeout: float = TIMEOUT


def _number(environment: Mapping[str, str], name: str, default: str | None = None) -> int:
    """A variable of torchrun or srun that counts something.

    Raises:
        InputError: it is no number of at least 0.
    """
    text = environment[name] if default is None else environment.get(name, default)
    if not text.strip().isdecimal():
        raise InputError(f"environment variable {name}={text!r}: must be a whole number; unset it where nobody set it")
    return int(text)


def place_from_environment(environment: Mapping[str, str] = os.environ) -> Place | None:
    """Where torchrun or srun has put this process; None where neither has started it.

    Raises:
        InputError: the environment is incomplete, or machines have different numbers of processes.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return _from_torchrun(environment)
    # Set by srun for the processes of a step; a batch script itself, and a shell of salloc, are no such processes.
    if _number(environment, "SLURM_STEP_NUM_TASKS", "1") > 1 and "SLURM_PROCID" in environment:
        return _from_slurm(environment)
    return None


def _from_torchrun(environment: Mapping[str, str]) -> Place:
    missing = [key for key in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if key not in environment]
    if missing:
        raise InputError(
            f"RANK and WORLD_SIZE are set but {', '.join(missing)} not: start with torchrun, or unset them"
        )
    rank, world_size = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
    local_rank, local_size = _number(environment, "LOCAL_RANK"), _number(environment, "LOCAL_WORLD_SIZE", "1")
    return _checked(Place(rank, world_size, local_rank, local_size, "env://"))


def _from_slurm(environment: Mapping[str, str]) -> Place:
    tasks, nodes = _number(environment, "SLURM_STEP_NUM_TASKS"), _number(environment, "SLURM_STEP_NUM_NODES", "1")
    if not nodes or tasks % nodes:
        raise InputError(f"srun: {tasks} tasks on {nodes} nodes; give each node as many, with --ntasks-per-node")
    host = environment.get("MASTER_ADDR") or first_host(environment.get("SLURM_STEP_NODELIST", "localhost"))
    # Jobs that share a machine get different ports.
    port = environment.get("MASTER_PORT") or str(20000 + _number(environment, "SLURM_JOB_ID", "0") % 40000)
    rank, local_rank = _number(environment, "SLURM_PROCID"), _number(environment, "SLURM_LOCALID", "0")
    if rank % (tasks // nodes) != local_rank:
        raise InputError("srun: the tasks of a node must follow each other; give --distribution=block")
    return _checked(Place(rank, tasks, local_rank, tasks // nodes, f"tcp://{host}:{port}"))


def first_host(nodes: str) -> str:
    """The first host of SLURM's short list of hosts, such as ``node[03-05,9],other``."""
    found = re.match(r"([^\[,]*)(?:\[([^\],-]+)[^\]]*\])?([^,\[]*)", nodes)
    return "".join(part or "" for part in found.groups()) if found else nodes


def _checked(place: Place) -> Place:
    """Refuse numbers that do not fit each other, for which the others would be waited for in vain."""
    if place.rank >= place.world_size:
        raise InputError(f"process {place.rank} of {place.world_size}: processes count from 0; correct RANK")
    if not place.local_size or place.world_size % place.local_size:
        raise InputError(
            f"{place.world_size} processes with {place.local_size} on this machine: each machine needs as many"
        )
    return place


def is_restart(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun has started this process anew after another one was lost."""
    return _number(environment, "TORCHELASTIC_RESTART_COUNT", "0") > 0


def launch(
    main: Callable[..., object],
    args: tuple[Any, ...] = (),
    *,
    num_processes: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    device: str = "cuda",
    on_join: Callable[[Place], object] | None = None,
    timeout: float = TIMEOUT,
) -> Any:
    """Run ``main(*args)`` in every process of a training.

    Args:
        main: a function, whose exceptions are those of `hiera_det.errors.run_tool`. Processes that are started here do
            not import the caller's script: what that defines is handed to them by value, where cloudpickle is
            installed.
        args: its arguments, the same for all processes.
        num_processes: to start on this machine; not looked at where torchrun or srun has started them.
        num_machines: on how many machines this is called.
        machine_rank: the number of this machine among them.
        dist_url: ``tcp://host:port`` of the first machine; "auto" on one machine.
        device: "cuda", or "cpu" for processes on the CPU, whose cores they share.
        on_join: called in each process of a group when all have met, before ``main``; one that others can import.
        timeout: minutes for which a process waits for the others before it ends.

    Returns:
        what ``main`` does in this process, or in the first of those that are started here.

    Raises:
        InputError: the numbers do not fit each other or the machine; or the first of those with which a process ended.
        StopRequested: a signal stopped the processes that were started here.
    """
    if not 0 < timeout <= MOST_MINUTES:
        raise InputError(f"--timeout {timeout:g}: minutes, must be above 0 and at most {MOST_MINUTES}")
    place, job = place_from_environment(), Job(main, args, device, on_join, timeout)
    if place is not None:
        return _run(place, job)
    if num_processes * num_machines == 1:
        return main(*args)
    address = _address(dist_url, num_machines)
    if not 0 <= machine_rank < num_machines:
        raise InputError(f"--machine-rank {machine_rank}: machines count from 0 to {num_machines - 1}")
    first = Place(machine_rank * num_processes, num_machines * num_processes, 0, num_processes, address)
    with _limited_threads(num_processes, device):
        return _spawn(first, job)


def _address(dist_url: str, num_machines: int) -> str:
    if dist_url != "auto":
        return dist_url
    if num_machines > 1:
        raise InputError("--dist-url auto is for one machine: name a free port of the first, tcp://host:29500")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def _limited_threads(num_processes: int, device: str) -> Iterator[None]:
    """Share the cores out: else each process takes all, and they wait for each other."""
    if "OMP_NUM_THREADS" in os.environ or device != "cpu":
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, available_cores() // num_processes))
    try:
        yield
    finally:
        os.environ.pop("OMP_NUM_THREADS", None)


def _spawn(first: Place, job: Job) -> Any:
    """Start this machine's processes and wait; where one ends with a user's mistake or by a signal, so does this."""
    _start_tracker()
    sent: list[int] = []
    with TemporaryDirectory() as folder, _quiet("torch.multiprocessing.spawn"):
        try:
            with _signals_to_children(sent):
                _start_and_join(first, job, folder)
        except (ProcessExitedException, ProcessRaisedException) as error:
            raise _reason(error, Path(folder) / SAID, sent) from None
        value = Path(folder) / VALUE
        return pickle.loads(value.read_bytes()) if value.is_file() else None


def _start_and_join(first: Place, job: Job, folder: str) -> None:
    start: Callable[..., Any] = spawn
    with _main_hidden():
        context = start(_worker, (_packed((first, job)), folder), nprocs=first.local_size, join=False)
    while not context.join():
        pass


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """A logger that tells errors only: that a process which ends has the others ended is no news."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Keep processes that are started from importing the caller's script, which would start them once more."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _packed(content: object) -> bytes:
    """A pickle that needs no ``__main__``: what a script or notebook defines goes by value.

    Raises:
        InputError: that needs cloudpickle, which is not installed.
    """
    try:
        from cloudpickle import dumps
    except ImportError:
        dumps = pickle.dumps
    try:
        packed: bytes = dumps(content)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"several processes: what they are given cannot be passed on ({error}); pip install cloudpickle, or define "
            "it in a module"
        ) from None
    return packed


def _reason(error: ProcessExitedException | ProcessRaisedException, said: Path, sent: list[int]) -> BaseException:
    """Why processes have ended, as an exception.

    Args:
        error: of the one that was found first.
        said: the line of the one that spoke first; there may be none.
        sent: signals that were passed on.
    """
    status = getattr(error, "exit_code", 1)
    if sent and status != EXIT_BAD_INPUT:
        return StopRequested(sent[0])
    if status in map(exit_status, SIGNALS):  # stopped, after a checkpoint
        return StopRequested(signal.SIGINT if status == exit_status(signal.SIGINT) else signal.SIGTERM)
    if said.is_file():
        return InputError(said.read_text(encoding="utf-8").removeprefix("error: "))
    if isinstance(error, ProcessRaisedException):
        return error
    return InputError(
        f"{error}, and with it the others; was it killed for its memory? --resume goes on from the last checkpoint"
    )


def _start_tracker() -> None:
    """Start what multiprocessing tracks semaphores with, deaf also to SIGUSR1: the others of a group it ignores."""
    if os.name == "posix":
        from multiprocessing import resource_tracker

        with held_back():
            resource_tracker.ensure_running()


@contextmanager
def _signals_to_children(sent: list[int]) -> Iterator[None]:
    """Pass signals on to the processes that this one starts, and wait for them to save.

    Ctrl-C and SLURM send theirs to all of them as well; what comes twice within a moment counts once
    (`hiera_det.engine.stop.Stop`).

    Args:
        sent: gets the numbers of those that come.
    """
    if threading.current_thread() is not threading.main_thread():  # where Python delivers none
        yield
        return

    def forward(number: int, frame: FrameType | None) -> None:
        sent.append(number)
        children = [child.pid for child in multiprocessing.active_children() if child.pid]
        if not children:
            raise StopRequested(number)
        for child in children:
            os.kill(child, number)

    before = {number: signal.signal(number, forward) for number in heard()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _worker(local_rank: int, packed: bytes, folder: str) -> None:
    """A process of this machine; it leaves in a folder why it ends, if it is the first, or what it has found."""
    for number in heard():
        signal.signal(number, leave)
    first, job = pickle.loads(packed)
    place = first._replace(rank=first.rank + local_rank, local_rank=local_rank)

    def say_once(line: str) -> None:
        with contextlib.suppress(FileExistsError), open(Path(folder) / SAID, "x", encoding="utf-8") as file:
            file.write(line)

    def run() -> None:
        value = _run(place, job)
        if local_rank == 0 and value is not None:
            (Path(folder) / VALUE).write_bytes(_packed(value))

    try:
        run_tool(run, say_once)
    finally:
        ignore_signals()  # the first to end has the others ended, who may be taking themselves down
    # All is written. To take the interpreter down with the backend's threads in it is slow, and now and then aborts.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _run(place: Place, job: Job) -> Any:
    """Join the others, run, and part; what was found."""
    on_gpu = torch.device(job.device).type == "cuda"
    if on_gpu:
        if place.local_rank >= torch.cuda.device_count():
            raise InputError(
                f"process {place.local_rank} of this machine has no GPU: PyTorch finds {torch.cuda.device_count()}; "
                "start as many processes, or run on the CPU"
            )
        torch.cuda.set_device(place.local_rank)
    os.environ["LOCAL_WORLD_SIZE"] = str(place.local_size)  # as torchrun has it
    try:
        meeting: dict[str, Any] = {"init_method": place.address}
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and place.address == "env://":
            meeting = {"store": _fresh_store(place, timedelta(minutes=job.timeout))}
        dist.init_process_group(
            backend="nccl" if on_gpu else "gloo",
            world_size=place.world_size,
            rank=place.rank,
            timeout=timedelta(minutes=job.timeout),
            **meeting,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"process {place.rank} cannot meet the others at {place.address}: {reason}") from None
    if job.on_join:
        job.on_join(place)
    dist.barrier(device_ids=[place.local_rank] if on_gpu else None)
    value = job.main(*job.args)
    dist.destroy_process_group()  # after an error the others may be gone, and this would wait for them
    return value


def _fresh_store(place: Place, timeout: timedelta) -> TCPStore:
    """A store of this attempt's own, served by the first process.

    torchrun's store outlives its workers: after a restart, processes would find the addresses of those who are gone.
    Here it only tells where the first process is, and who finds an old address there asks again.
    """
    torchruns = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    shared = TCPStore(*torchruns, is_master=False, timeout=timeout)
    if place.rank == 0:
        host = _address_towards(*torchruns)
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timeout)
        shared.set(ADDRESS_KEY, f"{host} {store.port}")
        return store
    deadline = time.monotonic() + timeout.total_seconds()
    while True:
        host, port = shared.get(ADDRESS_KEY).decode().split()
        try:
            socket.create_connection((host, int(port)), timeout=ATTEMPT).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the first process does not answer at {host}:{port}") from error
            time.sleep(0.2)
        else:
            return TCPStore(host, int(port), is_master=False, wait_for_workers=False, timeout=timeout)


def _address_towards(host: str, port: int) -> str:
    """This machine's address in the network in which another is reached; nothing is sent."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])
