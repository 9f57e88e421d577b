"""What is to be compared, and ``results.json``: its settings, and of each variant the steps that its seconds are."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from hiera_det.d2.compare.clock import step_seconds
from hiera_det.d2.compare.variants import Variant
from hiera_det.d2.config.load import load_config
from hiera_det.d2.config.request import RunRequest
from hiera_det.d2.config.setup import setup_config
from hiera_det.d2.train.run import LOGGERS
from hiera_det.engine.environment import machine_name
from hiera_det.engine.opts import words_of
from hiera_det.engine.session import process_kept
from hiera_det.errors import InputError
from hiera_det.files import write_atomically

__all__ = ["Comparison", "Plan", "silent"]

#: Fewer steps show nothing.
LEAST_STEPS = 10
#: For as long as it is not known how many there will be.
MANY_STEPS = 10**6
#: Part of a run that a config's own warm-up takes at most.
WARM_UP = 0.1
#: What a comparison sets itself.
OWN_KEYS = {
    *("SOLVER.MAX_ITER", "SOLVER.EPOCHS", "TEST.EVAL_PERIOD", "TEST.EVAL_EPOCHS", "SEED", "OUTPUT_DIR"),
    *("DATALOADER.NUM_WORKERS", "DATASETS.TRAIN", "DATASETS.TEST"),
}
#: Left out, for it takes time and shows nothing here; images are read in the process whose seconds count.
PLAIN = {"DATALOADER.NUM_WORKERS": 0, "TEST.REPORT": False, "TEST.PICTURES": 0, "TEST.VAL_LOSS": False, "TEST.BEST": ""}


@dataclass(frozen=True)
class Comparison:
    """What is to be compared.

    Attributes:
        config: a YAML file or the name of one of ours: heads, data pipeline and solver of all.
        variants: see `hiera_det.d2.compare.variants.read_variants`; those that come later are timed by the first.
        data: ``train_json``, ``train_images``, ``val_json`` and ``val_images``.
        output: folder.
        seconds: of a run's training: of the process on a CPU, of the wall clock on a GPU.
        seeds: a run of each variant for each.
        evaluations: of each run, evenly spread, the last at its end; their time does not count.
        threads: PyTorch's; 0 leaves them as they are.
        opts: config keys of all.
        keep_weights: leave the checkpoints of runs that are finished.

    Raises:
        InputError: a number that cannot be used.
    """

    config: str
    variants: Sequence[Variant]
    data: Mapping[str, str]
    output: str
    seconds: float = 120.0
    seeds: Sequence[int] = (0, 1, 2)
    evaluations: int = 5
    threads: int = 1
    opts: Mapping[str, Any] = field(default_factory=dict)
    keep_weights: bool = False

    def __post_init__(self) -> None:
        given = {key for opts in (self.opts, *(variant.opts for variant in self.variants)) for key in opts}
        for key in sorted(OWN_KEYS & given):
            raise InputError(f"{key}: the comparison sets it itself, by its flags; leave it out")
        if not 0 < self.seconds < math.inf:
            raise InputError(f"--seconds {self.seconds}: give a number above 0")
        for name, least in (("evaluations", 1), ("threads", 0)):
            if getattr(self, name) < least:
                raise InputError(f"--{name} {getattr(self, name)}: must be at least {least}")
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds, default=-1) < 0:
            raise InputError(f"--seeds {' '.join(map(str, self.seeds))}: give different numbers from 0 on")

    def request(self, variant: Variant, steps: int, seed: int, folder: str, **how: bool) -> RunRequest:
        """What a run is asked for; a variant's own keys go before those of all, and these before the run's."""
        keys = {**PLAIN, **self._schedule(variant, steps), "SEED": seed, "OUTPUT_DIR": folder}
        own: dict[str, Any] = {**self.data, **how}
        return RunRequest(self.config, words_of({**keys, **self.opts, **variant.opts}), **own)

    def _schedule(self, variant: Variant, steps: int) -> dict[str, Any]:
        """Of so many steps."""
        period = -(-steps // self.evaluations)
        return {
            "SOLVER.MAX_ITER": steps,
            "SOLVER.WARMUP_ITERS": self.warm_up(variant, steps),
            "TEST.EVAL_PERIOD": period,
        }

    def warm_up(self, variant: Variant, steps: int) -> int:
        """Steps of it: what is set for these runs, or the config's, but no more than a part of so many."""
        opts = {**self.opts, **variant.opts}
        own: int = load_config(self.config, words_of(opts)).SOLVER.WARMUP_ITERS
        return own if "SOLVER.WARMUP_ITERS" in opts else min(own, int(WARM_UP * steps))

    def settings(self) -> dict[str, Any]:
        """What runs that are compared have in common, as JSON has it."""
        own = {name: os.path.abspath(path) for name, path in self.data.items()}
        same = {"config": self.config, "seconds": self.seconds, "evaluations": self.evaluations, **own}
        found: dict[str, Any] = _as_json({**same, "threads": self.threads, "keys": dict(self.opts)})
        return found

    def named(self, name: str) -> Variant:
        """A variant by its name."""
        return next(variant for variant in self.variants if variant.name == name)


class Plan:
    """The content of ``results.json``.

    Args:
        comparison: what is asked for.

    Raises:
        InputError: the output has a comparison with other settings.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison, self.path = comparison, Path(comparison.output) / "results.json"
        self.content: dict[str, Any] = {"settings": comparison.settings(), "machine": "", "variants": {}}
        if self.path.is_file():
            self._read()

    def _read(self) -> None:
        """Take up what an earlier call has left."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            there, asked = dict(content["settings"]), self.content["settings"]
            known = {name: (dict(one["keys"]), one["budget"]) for name, one in content["variants"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{self.path}: is no comparison's; choose another --output") from None
        for key in sorted(asked.keys() | there.keys()):
            self._check(key, there.get(key), asked.get(key))
        for variant in self.comparison.variants:
            if variant.name in known:
                self._check(variant.name, known[variant.name], (_as_json(dict(variant.opts)), self._budget(variant)))
        self.content = content

    def _check(self, what: str, there: object, asked: object) -> None:
        if there != asked:
            raise InputError(f"{self.path}: was made with {what} {there}, not {asked}; choose another --output")

    def _budget(self, variant: Variant) -> float:
        return variant.seconds or self.comparison.seconds

    def steps(self, name: str) -> int:
        """Of a run of a variant."""
        return int(self.content["variants"][name]["steps"])

    def checked(self) -> dict[str, CfgNode]:
        """The config of each variant, with its data and weights.

        Raises:
            InputError: a variant cannot be trained.
        """
        with process_kept(*LOGGERS), silent():
            return {variant.name: self._config(variant) for variant in self.comparison.variants}

    def measure(self, configs: Mapping[str, CfgNode], tell: Callable[[str], object]) -> None:
        """Time the steps of the variants that are new, beside those of the first.

        Args:
            configs: of `checked`.
            tell: is told that it takes a while.

        Raises:
            InputError: a variant's seconds are too few.
        """
        known = self.content["variants"]
        new = [name for name in configs if name not in known]
        if not new:
            return
        first = next((name for name in configs if name in known), new[0])
        tell(f"timing the steps of {', '.join(new)}")
        with process_kept(*LOGGERS), silent():
            found = step_seconds({name: configs[name] for name in dict.fromkeys((first, *new))})
        scale = known[first]["step_seconds"] / found[first] if first in known else 1.0
        self.content["machine"] = self.content["machine"] or machine_name(configs[first].MODEL.DEVICE)
        for name in new:
            self._add(self.comparison.named(name), scale * found[name])

    def _config(self, variant: Variant) -> CfgNode:
        """A variant's config; its folder is not made."""
        folder = os.path.join(self.comparison.output, variant.name)
        return setup_config(self.comparison.request(variant, MANY_STEPS, 0, folder, dry_run=True))

    def _add(self, variant: Variant, step_seconds: float) -> None:
        budget = self._budget(variant)
        steps = round(budget / step_seconds)
        if steps < LEAST_STEPS:
            raise InputError(
                f"--seconds {budget:g}: are {steps} steps of {variant.name}; give at least "
                f"{math.ceil(LEAST_STEPS * step_seconds)}"
            )
        self.content["variants"][variant.name] = {
            "keys": _as_json(dict(variant.opts)),
            "budget": budget,
            "step_seconds": step_seconds,
            "steps": steps,
            "warm_up": self.comparison.warm_up(variant, steps),
            "runs": {},
        }

    def save(self) -> None:
        """Write the file."""
        text = json.dumps(self.content, indent=1)
        write_atomically(self.path, lambda file: file.write(text.encode()))


def _as_json(value: Any) -> Any:
    """A value as it comes back from a file."""
    return json.loads(json.dumps(value))


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """A context in which nothing is printed: a training's own words are in its ``log.txt``."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
