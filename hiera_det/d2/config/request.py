"""What a run is asked for, as plain values: what the flags of a training tool, or a Python caller, fill in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hiera_det.engine.launch import TIMEOUT, place_from_environment
from hiera_det.errors import InputError

__all__ = ["PATHS", "RunRequest"]

#: Fields that may name files or folders.
PATHS = ("config_file", "train_json", "train_images", "val_json", "val_images")


@dataclass(frozen=True)
class RunRequest:
    """One training or evaluation; checked when it is made.

    Attributes:
        config_file: a YAML file, or a LazyConfig's Python file.
        opts: what overrides it: keys and values in turn for YAML, ``key=value`` pairs for a LazyConfig.
        train_json: COCO JSON of own data to train on.
        train_images: the folder that its file names are relative to.
        val_json: COCO JSON to evaluate on.
        val_images: the folder that its file names are relative to.
        num_gpus: processes on each machine, on the CPU too.
        num_machines: how many machines.
        machine_rank: the number of this one among them.
        dist_url: where the processes meet; "auto" on one machine.
        timeout: minutes for which a process waits for the others.
        eval_only: evaluate, and train nothing.
        resume: go on from the output folder's last checkpoint.
        auto_resume: go on where there is a checkpoint, start where there is none.
        dry_run: try a few steps and keep nothing.
        allow_changed: keys that may differ from those of the checkpoint that is resumed.

    Raises:
        InputError: a number of processes or machines that cannot be; or something for a resume that is none.
    """

    config_file: str = ""
    opts: tuple[Any, ...] = ()
    train_json: str | None = None
    train_images: str | None = None
    val_json: str | None = None
    val_images: str | None = None
    num_gpus: int = 1
    num_machines: int = 1
    machine_rank: int = 0
    dist_url: str = "auto"
    timeout: float = TIMEOUT
    eval_only: bool = False
    resume: bool = False
    auto_resume: bool = False
    dry_run: bool = False
    allow_changed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("opts", "allow_changed"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for flag, value in (("--num-gpus", self.num_gpus), ("--num-machines", self.num_machines)):
            if type(value) is not int or value < 1:
                raise InputError(f"{flag} {value}: give at least 1; without a GPU, 1 process runs on the CPU")
        if self.allow_changed and not (self.resume or self.auto_resume):
            raise InputError("--allow-changed: is for --resume, which is not given")
        if not 0 <= self.machine_rank < self.num_machines:
            raise InputError(
                f"--machine-rank {self.machine_rank}: machines are counted from 0, and --num-machines is "
                f"{self.num_machines}"
            )

    @property
    def own_data(self) -> dict[str, Any]:
        """The paths of own data, as `hiera_det.d2.data.datasets.own_data_config` takes them."""
        return {name: getattr(self, name) for name in ("train_json", "train_images", "val_json", "val_images")}

    @property
    def world_size(self) -> int:
        """How many processes there are on all machines, torchrun's or srun's where these started this one."""
        place = place_from_environment()
        return place.world_size if place else self.num_gpus * self.num_machines
