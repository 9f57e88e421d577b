"""An interrupted and resumed training equals one that was not, to the bit, by YAML and by LazyConfig.

Real processes, with loader workers, accumulation, averaged weights, drop path, random sizes and flips, batches by
aspect ratio and evaluations in between; interrupted by SIGTERM to the whole group of processes and by SIGKILL.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hiera_det.d2.config.request import RunRequest
from hiera_det.engine.events import read_metrics

CONFIGS = Path(__file__).parents[2] / "configs"
STEPS, CHECKPOINT, EVALUATION = 10, 3, 4
YAML = f"""
MODEL.HIERA.EMBED_DIM 16 MODEL.HIERA.DEPTHS [1,1,1,1] MODEL.HIERA.DROP_PATH_RATE 0.3 MODEL.FPN.OUT_CHANNELS 16
MODEL.ROI_BOX_HEAD.CONV_DIM 16 MODEL.ROI_BOX_HEAD.FC_DIM 16 MODEL.ROI_MASK_HEAD.CONV_DIM 16 MODEL.DEVICE cpu
INPUT.MIN_SIZE_TRAIN (48,64,80) INPUT.MAX_SIZE_TRAIN 128 INPUT.MIN_SIZE_TEST 64 TEST.PICTURES 0
SOLVER.IMS_PER_BATCH 4 SOLVER.ACCUMULATE 2 SOLVER.EMA_DECAY 0.9 SOLVER.MAX_ITER {STEPS} SOLVER.STEPS (6,8)
SOLVER.SCALING none SOLVER.CHECKPOINT_PERIOD {CHECKPOINT} TEST.EVAL_PERIOD {EVALUATION} DATALOADER.NUM_WORKERS 2 SEED 7
""".split()
#: The same as a user writes it, over a leaf beside it.
LAZY = f"""
from .mask_rcnn_hiera_t_100ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.update(out_channels=16, square_pad=64)
model.backbone.trunk.update(embed_dim=16, depths=[1, 1, 1, 1], global_blocks=[], drop_path_rate=0.3)
model.roi_heads.box_head.update(conv_dims=[16], fc_dims=[16])
model.roi_heads.mask_head.conv_dims = [16, 16]
model.proposal_generator.post_nms_topk = [50, 20]
for augmentation in dataloader.train.mapper.augmentations:
    if "crop_size" in augmentation:
        augmentation.crop_size = [64, 64]
    if "target_height" in augmentation:
        augmentation.update(target_height=64, target_width=64)
dataloader.test.mapper.augmentations[0].update(short_edge_length=64, max_size=64)
dataloader.train.num_workers = 2
dataloader.train.total_batch_size = 4
optimizer.lr = 1e-4
train.update(init_checkpoint="", max_iter={STEPS}, eval_period={EVALUATION}, pictures=0, device="cpu", seed=7)
train.update(accumulate=2, ema_decay=0.9, checkpointer=dict(period={CHECKPOINT}, max_to_keep=100))
train.amp.enabled = False
"""
#: Values of metrics.json that tell of time and memory.
CLOCK = ("time", "data_time", "rank_data_time", "eta_seconds", "images_per_second", "data_share", "peak_memory_mib")


@pytest.fixture(scope="module")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Ten images, wide and high, with a box each."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(10):
        width, height = (96, 64) if number % 3 else (64, 96)
        pixels = random.integers(0, 80, (height, width, 3), dtype=np.uint8)
        x, y = (int(place) for place in random.integers(4, 24, 2))
        pixels[y : y + 30, x : x + 24] += 120
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number + 1, "file_name": f"{number}.png", "width": width, "height": height})
        ring = [x, y, x + 24, y, x + 24, y + 30, x, y + 30]
        box = {"bbox": [x, y, 24, 30], "area": 720, "iscrowd": 0, "segmentation": [ring]}
        annotations.append({"id": number + 1, "image_id": number + 1, "category_id": 1, **box})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "box"}]}
    (folder / "data.json").write_text(json.dumps(content))
    (folder / "val.json").write_text(json.dumps({**content, "info": {}}))
    split = {"train_json": "data.json", "train_images": "", "val_json": "val.json", "val_images": ""}
    return {name: str(folder / place) for name, place in split.items()}


def run(request: RunRequest, log: Path | None) -> None:
    """A training in a group of processes of its own."""
    if log:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
    from hiera_det.d2.lazy.run import train_by_lazy_config
    from hiera_det.d2.train.run import train_by_yaml
    from hiera_det.errors import run_tool

    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # for loader workers, as in a process of one's own
    torch.set_num_threads(1)
    train = train_by_lazy_config if request.config_file.endswith(".py") else train_by_yaml
    run_tool(lambda: train(request, False))


@pytest.fixture(scope="module")
def start() -> Callable[..., BaseProcess]:
    """Starts a training in a fresh process, which has imported what takes time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hiera_det.d2.lazy.run", "hiera_det.d2.train.run"])

    def start(request: RunRequest, log: Path | None = None) -> BaseProcess:
        process = context.Process(target=run, args=(request, log))
        process.start()
        return process

    return start


@pytest.fixture(scope="module", params=["yaml", "lazy"])
def request_for(
    request: pytest.FixtureRequest, own_data: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., RunRequest]:
    """``request_for(output folder, **flags)`` of one kind of config."""
    lazy = tmp_path_factory.mktemp("configs") / "lazy"
    shutil.copytree(CONFIGS / "lazy", lazy)
    (lazy / "small.py").write_text(LAZY)

    def make(out: Path, **flags: Any) -> RunRequest:
        if request.param == "yaml":
            opts = (*YAML, "OUTPUT_DIR", str(out))
            return RunRequest(str(CONFIGS / "quick_start.yaml"), opts, **own_data, **flags)
        return RunRequest(str(lazy / "small.py"), (f"train.output_dir={out}",), **own_data, **flags)

    return make


@pytest.fixture(scope="module")
def straight(
    request_for: Callable[..., RunRequest],
    start: Callable[..., BaseProcess],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The output of a training that nobody interrupted."""
    out = tmp_path_factory.mktemp("straight") / "out"
    finish(start(request_for(out)))
    return out


def finish(process: BaseProcess, status: int = 0) -> None:
    process.join(120)
    assert process.exitcode == status


def interrupt(process: BaseProcess, out: Path, number: int) -> None:
    """Send a signal to the training's whole group, some steps in."""
    deadline = time.monotonic() + 120
    while not (out / f"model_{CHECKPOINT - 1:07d}.pth").is_file():
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.pid
    os.killpg(process.pid, number)


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
    number: signal.Signals,
    straight: Path,
    request_for: Callable[..., RunRequest],
    start: Callable[..., BaseProcess],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    process = start(request_for(out))
    interrupt(process, out, number)
    finish(process, 143 if number == signal.SIGTERM else -signal.SIGKILL)
    assert not (out / "model_final.pth").is_file()
    if number == signal.SIGTERM:  # saved at the step at which it was stopped
        newest = sorted(path.name for path in out.glob("model_*.pth") if "ema" not in path.name)[-1]
        assert (out / "last_checkpoint").read_text() == newest
    finish(start(request_for(out, resume=True)))
    for name in ("model_final.pth", "model_final_ema.pth"):
        assert_same_files(out, straight, name)
    assert metrics(out) == metrics(straight)
    assert {STEPS, EVALUATION - 1} <= {line["iteration"] for line in metrics(out) if "bbox/AP" in line}
    assert not list(out.glob(".*.partial"))


def test_going_on_as_another_training_is_refused_unless_allowed(
    straight: Path,
    request_for: Callable[..., RunRequest],
    start: Callable[..., BaseProcess],
    tmp_path: Path,
) -> None:
    shutil.copytree(straight, tmp_path / "out")
    request = request_for(tmp_path / "out", resume=True)
    is_yaml = not request.config_file.endswith(".py")
    lr = ("SOLVER.BASE_LR", "0.5") if is_yaml else ("optimizer.lr=0.5",)
    before = (straight / "config.yaml").read_bytes()
    other = replace(request, opts=(*request.opts, *lr))
    finish(start(other, tmp_path / "said"), 2)
    said = (tmp_path / "said").read_text()
    assert f"was made with {'SOLVER.BASE_LR' if is_yaml else 'optimizer.lr'} " in said
    assert "Traceback" not in said
    assert (tmp_path / "out" / "config.yaml").read_bytes() == before
    finish(start(replace(other, allow_changed=("SOLVER.BASE_LR",))))
