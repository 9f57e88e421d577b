"""What a training will take, before it is started: three steps, one evaluation batch, and the rest multiplied."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from hiera_det.d2.config.schedule import count_images
from hiera_det.d2.predict.precision import autocast
from hiera_det.d2.train.largest import largest_batch
from hiera_det.d2.train.memory import memory_told
from hiera_det.d2.train.trainer import Trainer
from hiera_det.engine.progress import peak_memory
from hiera_det.engine.say import say

__all__ = ["Forecast", "dry_run"]

STEPS = 3
BYTES = 4  # checkpoints are in float32


@dataclass(frozen=True)
class Forecast:
    """What was measured, and what follows for the whole run.

    Attributes:
        images_per_step: of all processes together.
        first_step: seconds of the first step, which fills caches and may compile.
        step: seconds of a later one, the median.
        data_share: part of the steps' time that was spent waiting for data.
        memory: greatest peak of a process so far, in MiB.
        evaluation_batch: images in it, in each process.
        evaluation_time: its seconds; 0 where there is nothing to evaluate on.
        steps: of the whole training.
        evaluations: in the whole training.
        test_images: of one evaluation.
        processes: how many share the work.
        on_gpu: whether they have a GPU each.
        checkpoints: files that the training writes.
        checkpoint_size: bytes of each.
    """

    images_per_step: int
    first_step: float
    step: float
    data_share: float
    memory: float
    evaluation_batch: int
    evaluation_time: float
    steps: int
    evaluations: int
    test_images: int
    processes: int
    on_gpu: bool
    checkpoints: int
    checkpoint_size: int

    @property
    def training_hours(self) -> float:
        """Hours of all steps."""
        return self.steps * self.step / 3600

    @property
    def evaluation_hours(self) -> float:
        """Hours of all evaluations, without the computing of AP."""
        if not self.evaluation_time:
            return 0.0
        batches = math.ceil(self.test_images / self.evaluation_batch / self.processes)
        return self.evaluations * batches * self.evaluation_time / 3600

    def report(self, price: float = 0.0) -> str:
        """The forecast as lines to print.

        Args:
            price: of one hour of one process, in any currency; 0 to leave costs out.
        """
        hours = self.training_hours + self.evaluation_hours
        unit = "GPU-hours" if self.on_gpu else "process-hours"
        lines = [
            f"first step        {self.first_step:.2f} s",
            f"later steps       {self.step:.2f} s of {self.images_per_step} images: "
            f"{self.images_per_step / self.step:.3g} images/s, {self.data_share:.0%} of it data loading",
            f"peak memory       {self.memory:.0f} MiB per {'GPU' if self.on_gpu else 'process'}, largest images too",
            f"training          {self.steps} steps: {_duration(self.training_hours)}",
            f"evaluation        {self.evaluations} of {self.test_images} images: {_duration(self.evaluation_hours)}",
            f"checkpoints       {self.checkpoints} of about {self.checkpoint_size / 2**20:.0f} MiB: "
            f"{self.checkpoints * self.checkpoint_size / 2**30:.1f} GiB",
            f"whole run         {_duration(hours)}, {hours * self.processes:.1f} {unit}"
            + (f", {hours * self.processes * price:.2f} at {price:g} each" if price else ""),
        ]
        return "\n".join(lines)


def _duration(hours: float) -> str:
    """Hours in the unit that reads best."""
    return f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"


def dry_run(cfg: CfgNode) -> Forecast:
    """Build all that a training builds, take three steps and one of the largest images, evaluate a batch; keep nothing.

    Called in every process of a run.

    Args:
        cfg: as `hiera_det.d2.config.setup.setup_config` gives it.

    Raises:
        InputError: the GPU's memory does not suffice.
    """
    with tempfile.TemporaryDirectory() as folder:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.OUTPUT_DIR = folder
        cfg.freeze()
        _tell(f"building the model, and {STEPS} steps of {cfg.SOLVER.IMS_PER_BATCH} images")
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        with memory_told(cfg, trainer.settings.part, resumable=False):
            times, data_share = _take_steps(trainer)
            _tell("a step of the largest images, for the memory")
            with EventStorage(STEPS) as trainer.storage:
                trainer._trainer.step([largest_batch(cfg, trainer.settings.part)], STEPS + 1)
            _tell("an evaluation's first batch")
            batch, evaluation = _evaluate_batch(trainer)
    return Forecast(
        images_per_step=cfg.SOLVER.IMS_PER_BATCH,
        first_step=times[0],
        step=statistics.median(times[1:]),
        data_share=data_share,
        memory=max(comm.all_gather(peak_memory())),
        evaluation_batch=batch,
        evaluation_time=evaluation,
        steps=cfg.SOLVER.MAX_ITER,
        evaluations=_times(cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD) * (2 if cfg.SOLVER.EMA_DECAY else 1),
        test_images=sum(count_images(name) for name in cfg.DATASETS.TEST),
        processes=comm.get_world_size(),
        on_gpu=torch.device(cfg.MODEL.DEVICE).type == "cuda",
        checkpoints=_times(cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD),
        checkpoint_size=_checkpoint_size(cfg, trainer.model),
    )


def _tell(what: str) -> None:
    """Say what is done now."""
    if comm.is_main_process():
        say.info("dry run: %s", what)


def _times(steps: int, period: int) -> int:
    """How often something is done that is done every so many steps (0: never) and at the end."""
    return 1 + (steps - 1) // period if period > 0 else 1


def _take_steps(trainer: Trainer) -> tuple[list[float], float]:
    """Seconds of each step, and the part of the later ones that was spent on waiting for data."""
    times, waiting = [], []
    with EventStorage(0) as trainer.storage:
        for trainer.iter in range(STEPS):
            trainer.storage.iter = trainer.iter
            _finish(trainer.model)
            start = time.perf_counter()
            _tell(f"step {trainer.iter + 1} of {STEPS}")
            trainer.run_step()
            _finish(trainer.model)
            times.append(time.perf_counter() - start)
            trainer.scheduler.step()
            if comm.is_main_process():
                waiting.append(trainer.storage.latest()["data_time"][0])
    return times, sum(waiting[1:]) / sum(times[1:])


def _evaluate_batch(trainer: Trainer) -> tuple[int, float]:
    """Images in the first batch of an evaluation and the seconds that it takes; 0 and 0 where there is none."""
    cfg, model = trainer.cfg, trainer.model
    if not cfg.DATASETS.TEST:
        return 1, 0.0
    batch = next(iter(trainer.build_test_loader(cfg, cfg.DATASETS.TEST[0])))
    model.eval()
    with autocast(cfg), torch.no_grad():
        _finish(model)
        start = time.perf_counter()
        model(batch)
        _finish(model)
    model.train()
    return len(batch), time.perf_counter() - start


def _finish(model: nn.Module) -> None:
    """Wait for the GPU."""
    if next(model.parameters()).device.type == "cuda":
        torch.cuda.synchronize()


def _checkpoint_size(cfg: CfgNode, model: nn.Module) -> int:
    """Bytes of a checkpoint: weights, the optimizer's averages and, twice, the average of the weights."""
    copies = 1 + (2 if cfg.SOLVER.OPTIMIZER == "ADAMW" else 1) + (2 if cfg.SOLVER.EMA_DECAY else 0)
    return BYTES * copies * sum(parameter.numel() for parameter in model.parameters())
