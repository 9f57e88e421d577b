"""Which settings of a training differ from those of the checkpoint that it goes on from."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import yaml
from detectron2.config import CfgNode

from hiera_det.d2.config.kinds import same

__all__ = ["ALSO_KNOWN", "CONTENT", "changed_settings", "derived_settings", "settings_of"]

#: Keys that make no other training: places, machines, tests, what is kept and shown.
WITHOUT_WEIGHT = re.compile(
    r"VERSION|OUTPUT_DIR|LOGGERS|CUDNN_BENCHMARK|VIS_PERIOD|FLOAT32_PRECISION|GLOBAL\..*|TEST\..*|DATASETS\..*TEST"
    r"|MODEL\.(WEIGHTS|DEVICE|HIERA\.(COMPILE|USE_CHECKPOINT|CHECKPOINT_STAGES|RECOMPUTE_GELU)|PANOPTIC_FPN\.COMBINE\..*|.*_TEST)"
    r"|INPUT\.(.*_TEST|MAX_PIXELS|ON_BAD_IMAGE)|DATALOADER\.NUM_WORKERS"
    r"|SOLVER\.(CHECKPOINT_.*|KEEP_CHECKPOINTS|SKIP_NONFINITE|PARALLEL|IMAGES_PER_EPOCH|AUTO_BATCH|REFERENCE_WORLD_SIZE|SCALING)"
)
#: The name under which a checkpoint keeps a hash of its data.
CONTENT = "content"
#: Keys that are written down as others.
ALSO_KNOWN = {"SOLVER.EPOCHS": "SOLVER.MAX_ITER", "SOLVER.MILESTONES": "SOLVER.STEPS"}
_DATA, _BATCH = "DATASETS.TRAIN", "SOLVER.IMS_PER_BATCH"
#: What follows from other settings, where it is not given itself.
_DERIVED: dict[str, Sequence[str]] = {
    _BATCH: ("processes",),  # under SOLVER.REFERENCE_WORLD_SIZE
    "SOLVER.BASE_LR": (_BATCH,),
    "SOLVER.MAX_ITER": (_BATCH, _DATA),
    "SOLVER.STEPS": (_BATCH, _DATA, "SOLVER.MAX_ITER"),
    "INPUT.MASK_FORMAT": (_DATA,),
    "MODEL.ROI_HEADS.NUM_CLASSES": (_DATA,),
    "MODEL.RETINANET.NUM_CLASSES": (_DATA,),
}


def derived_settings(given: Collection[str]) -> dict[str, Sequence[str]]:
    """Settings that follow from others, and from which.

    Args:
        given: keys of the command line: who gives one has changed it.
    """
    return {key: sources for key, sources in _DERIVED.items() if key not in given}


def settings_of(cfg: CfgNode, processes: int, content: str = "") -> dict[str, Any]:
    """What a checkpoint keeps of its training's config: plain values by full names, and no paths of this machine.

    Args:
        cfg: of the training.
        processes: of all machines; under the name ``processes``.
        content: a hash of what ``DATASETS.TRAIN`` holds; "" where nothing has one.
    """
    kept = {key: value for key, value in _flat(yaml.safe_load(cfg.dump())) if not WITHOUT_WEIGHT.fullmatch(key)}
    return kept | {"processes": processes} | ({CONTENT: content} if content else {})


def changed_settings(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Settings under which the rest of a training is not what it would have been.

    A longer training is not among them where the learning rate falls in steps: nothing that is done would be otherwise.

    Args:
        saved: the config of the checkpoint's training, a nested dict; keys that it lacks count as equal.
        now: the config of the training that goes on.

    Returns:
        full names of keys with the saved and the present value. Data sets are compared by their content, where both
        know it.
    """
    old, new = dict(_flat(saved)), dict(_flat(now))
    if CONTENT in old and CONTENT in new:
        for settings in (old, new):
            settings["DATASETS.TRAIN"] = f"data of content {settings.pop(CONTENT)}"
    changed = [
        (key, old[key], value)
        for key, value in new.items()
        if key in old and not WITHOUT_WEIGHT.fullmatch(key) and not same(old[key], value)
    ]
    if new.get("SOLVER.LR_SCHEDULER_NAME") != "WarmupMultiStepLR":
        return changed
    if any(key == "SOLVER.STEPS" for key, *_ in changed):
        return changed
    return [change for change in changed if change[0] != "SOLVER.MAX_ITER" or change[2] < change[1]]


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Full names and values of a nested dict."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
