"""Which settings of a training differ from those of the checkpoint that it goes on from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from detectron2.config import CfgNode

from hiera_det.d2.config.kinds import same

__all__ = ["changed_settings", "settings_of"]

#: Keys that make no other training: places, machines, tests, what is kept and shown.
WITHOUT_WEIGHT = re.compile(
    r"VERSION|OUTPUT_DIR|CUDNN_BENCHMARK|VIS_PERIOD|FLOAT32_PRECISION|GLOBAL\..*|TEST\..*|DATASETS\..*TEST"
    r"|MODEL\.(WEIGHTS|DEVICE|HIERA\.(COMPILE|USE_CHECKPOINT|CHECKPOINT_STAGES)|PANOPTIC_FPN\.COMBINE\..*|.*_TEST)"
    r"|INPUT\.(.*_TEST|MAX_PIXELS|ON_BAD_IMAGE)|DATALOADER\.NUM_WORKERS"
    r"|SOLVER\.(CHECKPOINT_.*|KEEP_CHECKPOINTS|SKIP_NONFINITE|PARALLEL|IMAGES_PER_EPOCH|REFERENCE_WORLD_SIZE|SCALING)"
)


def settings_of(cfg: CfgNode, processes: int) -> dict[str, Any]:
    """What a checkpoint keeps of its training's config: plain values by full names, and no paths of this machine.

    Args:
        cfg: of the training.
        processes: of all machines; under the name ``processes``.
    """
    kept = {key: value for key, value in _flat(yaml.safe_load(cfg.dump())) if not WITHOUT_WEIGHT.fullmatch(key)}
    return kept | {"processes": processes}


def changed_settings(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Settings under which the rest of a training is not what it would have been.

    A longer training is not among them where the learning rate falls in steps: nothing that is done would be otherwise.

    Args:
        saved: the config of the checkpoint's training, a nested dict; keys that it lacks count as equal.
        now: the config of the training that goes on.

    Returns:
        full names of keys with the saved and the present value.
    """
    old, new = dict(_flat(saved)), dict(_flat(now))
    changed = [
        (key, old[key], value)
        for key, value in new.items()
        if key in old and not WITHOUT_WEIGHT.fullmatch(key) and not same(old[key], value)
    ]
    if new.get("SOLVER.LR_SCHEDULER_NAME") != "WarmupMultiStepLR":
        return changed
    return [change for change in changed if change[0] != "SOLVER.MAX_ITER" or change[2] < change[1]]


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Full names and values of a nested dict."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
