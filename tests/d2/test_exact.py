"""An interrupted and resumed training equals one that was not, to the bit, by YAML and by LazyConfig.

Real processes, with loader workers, accumulation, averaged weights, drop path, random sizes and flips, batches by
aspect ratio and evaluations in between; interrupted by SIGTERM to the whole group of processes and by SIGKILL.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from detections import CONFIGS, LAZY_SMALL, SMALL, write_boxes
from trainings import Running, before, run, start

from hiera_det.engine.events import read_metrics

STEPS, CHECKPOINT, EVALUATION = 10, 3, 4
TRAINING = f"""
SOLVER.IMS_PER_BATCH 4 SOLVER.ACCUMULATE 2 SOLVER.EMA_DECAY 0.9 SOLVER.MAX_ITER {STEPS} SOLVER.STEPS (6,8)
SOLVER.CHECKPOINT_PERIOD {CHECKPOINT} TEST.EVAL_PERIOD {EVALUATION} DATALOADER.NUM_WORKERS 2 SEED 7
""".split()
LAZY = f"""{LAZY_SMALL}
model.backbone.trunk.drop_path_rate = 0.3
dataloader.train.num_workers = 2
dataloader.train.total_batch_size = 4
train.update(max_iter={STEPS}, eval_period={EVALUATION}, pictures=0, seed=7, accumulate=2, ema_decay=0.9)
train.checkpointer.period = {CHECKPOINT}
train.amp.enabled = False
"""
#: Values of metrics.json that tell of time and memory.
CLOCK = ("time", "data_time", "rank_data_time", "eta_seconds", "images_per_second", "data_share", "peak_memory_mib")


class Kind(NamedTuple):
    """One of the two ways to configure a training."""

    tool: str
    words: Callable[..., list[str]]
    lr: str


@pytest.fixture(scope="module", params=["detect", "detect-lazy"])
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kind:
    """``words(output folder, *flags, more=overrides)`` are a training's words on the command line."""
    data = write_boxes(tmp_path_factory.mktemp("data"))
    if request.param == "detect":

        def words(out: Path, *flags: str, more: tuple[str, ...] = ()) -> list[str]:
            config = ["--config-file", str(CONFIGS / "quick_start.yaml")]
            return [*flags, *config, *data, *SMALL, *TRAINING, "OUTPUT_DIR", str(out), *more]

        return Kind("detect", words, "SOLVER.BASE_LR")
    lazy = tmp_path_factory.mktemp("configs") / "lazy"
    shutil.copytree(CONFIGS / "lazy", lazy)
    (lazy / "small.py").write_text(LAZY)

    def lazy_words(out: Path, *flags: str, more: tuple[str, ...] = ()) -> list[str]:
        pairs = [f"{key}={value}" for key, value in zip(more[0::2], more[1::2], strict=True)]
        return [*flags, "--config-file", str(lazy / "small.py"), *data, f"train.output_dir={out}", *pairs]

    return Kind("detect-lazy", lazy_words, "optimizer.lr")


@pytest.fixture(scope="module")
def straight(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a training that nobody interrupted."""
    out = tmp_path_factory.mktemp("straight") / "out"
    done = run(kind.tool, kind.words(out), out.with_name("said"))
    assert done.status == 0, done.stderr
    return out


def interrupt(running: Running, out: Path, number: int) -> None:
    """Send a signal to the training's whole group, some steps in."""
    deadline = time.monotonic() + 120
    while not (out / f"model_{CHECKPOINT - 1:07d}.pth").is_file():
        assert running.process.is_alive(), running.stderr.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert running.process.pid
    os.killpg(running.process.pid, number)


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Every value of a checkpoint by its path, but for what tells of time and memory."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() if key not in CLOCK for k, v in flat(item, f"{name}/{key}").items()}
    if isinstance(value, list):
        return {k: v for key, item in enumerate(value) for k, v in flat(item, f"{name}/{key}").items()}
    return {name: value}


def assert_same_files(ours: Path, theirs: Path, name: str) -> None:
    a, b = (flat(torch.load(folder / name, weights_only=True)) for folder in (ours, theirs))
    assert a.keys() == b.keys()
    different = [key for key in a if not _equal(a[key], b[key])]
    assert not different, different[:5]


def _equal(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b or (a != a and b != b)  # NaN is NaN


def metrics(out: Path) -> list[dict[str, Any]]:
    lines = read_metrics(out / "metrics.json")
    return [{name: value for name, value in line.items() if name not in CLOCK} for line in lines]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_training_that_was_interrupted_and_resumed_equals_one_that_was_not(
    number: signal.Signals, straight: Path, kind: Kind, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    running = start(kind.tool, kind.words(out), tmp_path / "said")
    interrupt(running, out, number)
    assert running.wait().status == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    assert not (out / "model_final.pth").is_file()
    if number == signal.SIGTERM:  # saved at the step at which it was stopped
        newest = sorted(path.name for path in out.glob("model_*.pth") if "ema" not in path.name)[-1]
        assert (out / "last_checkpoint").read_text() == newest
    done = run(kind.tool, kind.words(out, "--resume"), tmp_path / "said")
    assert done.status == 0, done.stderr
    for name in ("model_final.pth", "model_final_ema.pth"):
        assert_same_files(out, straight, name)
    assert metrics(out) == metrics(straight)
    assert {STEPS, EVALUATION - 1} <= {line["iteration"] for line in metrics(out) if "bbox/AP" in line}
    assert not list(out.glob(".*.partial"))


def test_a_later_evaluation_that_is_cut_short_twice_is_made_up_for(straight: Path, kind: Kind, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for call, flags in ((3, ()), (1, ("--resume",))):  # each evaluation is of two models
        patch = before("hiera_det.d2.predict.evaluation", "Evaluator.evaluate", call)
        assert run(kind.tool, kind.words(out, *flags), tmp_path / "said", patch).status == 143
    done = run(kind.tool, kind.words(out, "--resume"), tmp_path / "said")
    assert done.status == 0, done.stderr
    assert_same_files(out, straight, "model_final.pth")
    assert metrics(out) == metrics(straight)


def test_going_on_as_another_training_is_refused_unless_allowed(straight: Path, kind: Kind, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(straight, out)
    config = (out / "config.yaml").read_bytes()
    done = run(kind.tool, kind.words(out, "--resume", more=(kind.lr, "0.5")), tmp_path / "said")
    assert done.status == 2
    assert f"was made with {kind.lr} " in done.stderr
    assert "Traceback" not in done.stderr
    assert (out / "config.yaml").read_bytes() == config
    words = kind.words(out, "--resume", "--allow-changed", kind.lr, more=(kind.lr, "0.5"))
    assert run(kind.tool, words, tmp_path / "said").status == 0
