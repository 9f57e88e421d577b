"""The same optimisation in one process and in several, by DDP and FSDP2, and in parts; processes that are lost.

What detectron2 draws at random, or averages over what each process happens to have, is set so that nothing differs:
all proposals and anchors are used, and as many of them are positive in each image.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.utils.env import seed_all_rng
from PIL import Image, ImageDraw
from torch import Tensor

from hiera_det.d2.config.request import RunRequest
from hiera_det.d2.config.setup import setup_config
from hiera_det.d2.train.launch import launch
from hiera_det.d2.train.trainer import Trainer
from hiera_det.data.shapes import ShapesPaths

ROOT = Path(__file__).parents[2]
STEPS = 5
EXACT = ["MODEL.ROI_HEADS.IOU_THRESHOLDS", "[0.99]", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "4096"]
EXACT += ["MODEL.RPN.BATCH_SIZE_PER_IMAGE", "65536", "MODEL.RPN.POST_NMS_TOPK_TRAIN", "20"]
EXACT += ["SOLVER.MAX_ITER", str(STEPS), "SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", "0", "SOLVER.BASE_LR", "5e-4"]
EXACT += ["SOLVER.IMS_PER_BATCH", "4", "INPUT.RANDOM_FLIP", "none", "DATALOADER.ASPECT_RATIO_GROUPING", "False"]
EXACT += ["SEED", "3", "SOLVER.EMA_DECAY", "0.9", "MODEL.HIERA.DROP_PATH_RATE", "0.0"]
Arguments = Callable[..., RunRequest]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> ShapesPaths:
    """Images with two objects each, 8 to train on and 3, an odd number, to evaluate on."""
    folder = tmp_path_factory.mktemp("pairs")
    for split, count in (("train", 8), ("val", 3)):
        (folder / split).mkdir()
        _write_split(folder, split, count)
    train, val = folder / "train", folder / "val"
    return ShapesPaths(folder / "train.json", train, folder / "val.json", val, folder / "none.png")


def _write_split(folder: Path, split: str, count: int) -> None:
    images, annotations = [], []
    for index in range(count):
        image = Image.new("RGB", (64, 64), "gray")
        for label, left, top in ((1, 4 + 2 * index, 4), (2, 30, 30)):
            polygon = [left, top, left + 26, top, left + 26, top + 24, left, top + 20]
            ImageDraw.Draw(image).polygon(polygon, fill=("red", "blue")[label - 1])
            entry = {"id": len(annotations) + 1, "image_id": index + 1, "category_id": label, "iscrowd": 0}
            annotations.append(entry | {"bbox": [left, top, 26, 24], "area": 572, "segmentation": [polygon]})
        image.save(folder / split / f"{index}.png")
        images.append({"id": index + 1, "file_name": f"{index}.png", "width": 64, "height": 64})
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    (folder / f"{split}.json").write_text(json.dumps(content))


def train(args: RunRequest, steps: int = STEPS, resume: bool = False) -> None:
    """A training as tools/train_net.py runs it in each process; also run in processes that `launch` starts."""
    cfg = setup_config(args)
    seed_all_rng(3)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume, ("processes",) if resume else ())
    trainer.max_iter = steps
    trainer.train()


def train_all(runs: list[tuple[RunRequest, int, bool]]) -> None:
    """Several trainings in one group of processes."""
    for args, steps, resume in runs:
        train(args, steps, resume)


def final(folder: Path, name: str = "model_final.pth") -> dict[str, Any]:
    return torch.load(folder / name, map_location="cpu", weights_only=True)


@pytest.fixture(scope="module")
def outputs(
    pairs: ShapesPaths, tmp_path_factory: pytest.TempPathFactory, training_arguments: Arguments
) -> dict[str, Path]:
    """Output folders of the same five steps, taken in different ways."""
    folder = tmp_path_factory.mktemp("outputs")

    def arguments(name: str, *opts: str) -> RunRequest:
        return training_arguments(folder / name, pairs, *EXACT, *opts)

    train(arguments("one"))
    train(arguments("parts", "SOLVER.ACCUMULATE", "2"))
    runs = [(arguments("ddp"), STEPS, False), (arguments("fsdp", "SOLVER.PARALLEL", "fsdp"), STEPS, False)]
    runs.append((arguments("fsdp_parts", "SOLVER.PARALLEL", "fsdp", "SOLVER.ACCUMULATE", "2"), STEPS, False))
    runs.append((arguments("moved", "SOLVER.PARALLEL", "fsdp"), 2, False))
    launch(train_all, (runs,), num_processes=2, device="cpu")
    train(arguments("stopped"), 2)
    for name in ("moved", "stopped"):  # two steps shared out or not, then the rest in one process
        train(arguments(name), STEPS, True)
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("way", "reference"),
    [("ddp", "one"), ("parts", "one"), ("fsdp", "ddp"), ("fsdp_parts", "one"), ("moved", "stopped")],
)
def test_the_same_steps_are_taken(outputs: dict[str, Path], way: str, reference: str) -> None:
    ours, theirs = final(outputs[way]), final(outputs[reference])
    assert ours["iteration"] == theirs["iteration"] == STEPS - 1
    torch.testing.assert_close(ours["model"], theirs["model"], rtol=0, atol=1e-5)
    averages = [final(outputs[name], "model_final_ema.pth")["model"] for name in (way, reference)]
    torch.testing.assert_close(*averages, rtol=0, atol=1e-5)


def test_the_steps_move_the_weights_by_far_more_than_they_may_differ(outputs: dict[str, Path]) -> None:
    weights, average = final(outputs["one"])["model"], final(outputs["one"], "model_final_ema.pth")["model"]
    moved = {name: (weights[name] - average[name]).abs().max().item() for name in weights if weights[name].ndim > 1}
    assert sorted(moved.values())[len(moved) // 2] > 1e-4


@pytest.mark.parametrize("way", ["ddp", "fsdp", "fsdp_parts"])
def test_a_checkpoint_of_several_processes_is_one_processs(outputs: dict[str, Path], way: str) -> None:
    ours, theirs = final(outputs[way]), final(outputs["one"])
    assert list(ours["model"]) == list(theirs["model"])
    optimizers = [saved["trainer"]["_trainer"]["optimizer"] for saved in (ours, theirs)]
    assert [group["params"] for group in optimizers[0]["param_groups"]] == [
        group["params"] for group in optimizers[1]["param_groups"]
    ]
    for number, state in optimizers[1]["state"].items():
        assert type(optimizers[0]["state"][number]["exp_avg"]) is Tensor
        assert optimizers[0]["state"][number]["exp_avg"].shape == state["exp_avg"].shape


def test_every_image_is_evaluated_once_where_processes_have_not_as_many(outputs: dict[str, Path]) -> None:
    seen = {}
    for way in ("one", "ddp", "fsdp"):
        for folder in ("inference", "inference_ema"):
            found = json.loads((outputs[way] / folder / "coco_instances_results.json").read_text())
            seen[way, folder] = sorted((entry["image_id"], entry["category_id"]) for entry in found)
    assert {image for image, _ in seen["one", "inference"]} <= {1, 2, 3}
    assert seen["fsdp", "inference"] == seen["ddp", "inference"]
    assert seen["fsdp", "inference_ema"] == seen["ddp", "inference_ema"]


def test_a_lost_process_costs_the_steps_since_the_last_checkpoint(
    pairs: ShapesPaths, tmp_path: Path, training_arguments: Arguments
) -> None:
    args = training_arguments(tmp_path / "out", pairs, "SOLVER.MAX_ITER", "60", "SOLVER.STEPS", "()")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    torchrun += ["--max-restarts", "2", str(ROOT / "tools" / "train_net.py"), "--config-file", args.config_file]
    for flag in ("train_json", "train_images", "val_json", "val_images"):
        torchrun += ["--" + flag.replace("_", "-"), getattr(args, flag)]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "last_checkpoint").write_text("model_0000999.pth")  # an earlier run's
    opts = ["SOLVER.CHECKPOINT_PERIOD", "10", "SOLVER.EMA_DECAY", "0.9"]
    log = tmp_path / "log"
    with open(log, "w") as file:
        running = subprocess.Popen(
            [*torchrun, *args.opts, *opts],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        try:
            _wait_for(tmp_path / "out" / "model_0000019.pth", running)
            os.kill(_second_worker(running.pid), signal.SIGKILL)
            assert running.wait(timeout=200) == 0, log.read_text()[-3000:]
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
    said = log.read_text()
    assert "names 'model_0000999.pth', which is no file of this folder" in said
    told = (tmp_path / "out" / "log.txt").read_text()
    starts = [int(start) for start in re.findall(r"Starting training from iteration (\d+)", told)]
    assert len(starts) == 2
    assert starts[0] == 0
    assert starts[1] >= 20
    assert starts[1] % 10 == 0
    saved = final(tmp_path / "out")
    assert saved["iteration"] == 59
    assert saved["trainer"]["hooks"]["EMAHook"]["steps"] == 60
    assert {int(state["step"]) for state in saved["trainer"]["_trainer"]["optimizer"]["state"].values()} == {60}


def _wait_for(path: Path, running: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 200
    while not path.is_file():
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _second_worker(agent: int) -> int:
    """Process id of the worker that is not the first, from the children of torchrun's process."""
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    for child in children:
        if b"LOCAL_RANK=1" in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError(f"no second worker among {children}")
