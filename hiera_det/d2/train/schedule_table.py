"""What each config's training is, as the Markdown table of docs/training.md."""

from __future__ import annotations

from pathlib import Path

from hiera_det.d2.config.files import OWN_CONFIGS
from hiera_det.d2.config.load import load_config
from hiera_det.d2.config.schedule import resolve_schedule
from hiera_det.d2.lazy.files import load_lazy_config
from hiera_det.d2.lazy.translate import to_keys

__all__ = ["schedule_table"]

HEADER = (
    "| config | epochs | batch | iterations | rate drops at | learning rate | warm-up | layer decay | drop path |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def yaml_row(path: Path, images: int) -> str:
    """The row of a YAML config."""
    cfg = load_config(str(path))
    cfg.SOLVER.IMAGES_PER_EPOCH = images
    resolve_schedule(cfg)
    solver = cfg.SOLVER
    drops = [step for step in solver.STEPS if step < solver.MAX_ITER]
    numbers = (solver.BASE_LR, solver.WARMUP_ITERS, solver.LAYER_DECAY, cfg.MODEL.HIERA.DROP_PATH_RATE)
    return _row(path.name, solver.MAX_ITER, solver.IMS_PER_BATCH, images, drops, numbers)


def lazy_row(path: Path, images: int) -> str:
    """The row of a LazyConfig, whose iterations are its own, whatever the images."""
    cfg = load_lazy_config(str(path), [])
    solver = to_keys(cfg).SOLVER
    schedule = cfg.lr_multiplier.scheduler
    drops = [round(part * solver.MAX_ITER / schedule.num_updates) for part in schedule.milestones]
    warmup = cfg.lr_multiplier.warmup_length.iterations
    drop_path = cfg.model.backbone.trunk.drop_path_rate
    return _row(
        f"lazy/{path.name}",
        solver.MAX_ITER,
        solver.IMS_PER_BATCH,
        images,
        drops,
        (cfg.optimizer.lr, warmup, solver.LAYER_DECAY, drop_path),
    )


def _row(
    name: str, steps: int, batch: int, images: int, drops: list[int], numbers: tuple[float, float, float, float]
) -> str:
    cells = [f"`{name}`", f"{steps * batch / images:.1f}", batch, steps, ", ".join(map(str, drops)) or "never"]
    return "| " + " | ".join(str(cell) for cell in [*cells, *(f"{number:g}" for number in numbers)]) + " |"


def schedule_table(images: int) -> str:
    """The whole table."""
    rows = [yaml_row(path, images) for path in sorted(OWN_CONFIGS.glob("*.yaml"))]
    rows += [lazy_row(path, images) for path in sorted(OWN_CONFIGS.glob("lazy/*.py"))]
    return "\n".join([HEADER, *rows])
