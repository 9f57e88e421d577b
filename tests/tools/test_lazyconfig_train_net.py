"""tools/lazyconfig_train_net.py as a user runs it, on a data set of its own."""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from detections import LAZY_SMALL
from detectron2.utils.logger import setup_logger
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "lazyconfig_train_net.py"
LEAF = ROOT / "configs" / "lazy" / "mask_rcnn_hiera_t_100ep.py"
#: What PyTorch says once in a process that has no GPU, wherever a test first asks for it.
WORDS_OF_OTHERS = re.compile("No CUDA runtime is found")
CATEGORIES = {7: "fig", 42: "date", 43: "plum"}

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def write_split(folder: Path, split: str, images: int) -> list[str]:
    """Images of 64x64 with a rectangle of each category; returns the flags that name them."""
    (folder / split).mkdir()
    records, annotations = [], []
    for index in range(images):
        image = Image.new("RGB", (64, 64), "gray")
        for number, category in enumerate(CATEGORIES):
            x, y = 2 + 20 * number, 4 + 3 * index
            ImageDraw.Draw(image).rectangle([x, y, x + 17, y + 30], fill=("red", "blue", "green")[number])
            polygon = [x, y, x + 18, y, x + 18, y + 31, x, y + 31]
            entry = {"id": len(annotations) + 1, "image_id": 100 + index, "category_id": category, "iscrowd": 0}
            annotations.append(entry | {"bbox": [x, y, 18, 31], "area": 18 * 31, "segmentation": [polygon]})
        image.save(folder / split / f"{index}.png")
        records.append({"id": 100 + index, "file_name": f"{index}.png", "width": 64, "height": 64})
    categories = [{"id": id_, "name": name} for id_, name in CATEGORIES.items()]
    path = folder / f"{split}.json"
    path.write_text(json.dumps({"info": {}, "images": records, "annotations": annotations, "categories": categories}))
    return [f"--{split}-json", str(path), f"--{split}-images", str(folder / split)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("configs") / "lazy"
    shutil.copytree(ROOT / "configs" / "lazy", folder)
    (folder / "small.py").write_text(LAZY_SMALL)
    return folder / "small.py"


@pytest.fixture(scope="module")
def flags(config: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("own")
    return ["--config-file", str(config), *write_split(folder, "train", 3), *write_split(folder, "val", 2)]


@pytest.fixture(scope="module")
def trained(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The output folder of a training in two processes and its log."""
    out = tmp_path_factory.mktemp("trained") / "out"
    command = [sys.executable, str(TOOL), "--num-gpus", "2", *flags, f"train.output_dir={out}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return out, (out / "log.txt").read_text()


@pytest.fixture
def tool(run_here: Run) -> Run:
    """Exit status and output of the tool in this process, whose loggers hold on to the output of an earlier test."""
    for name in ("detectron2", "fvcore", "hiera_det"):
        logging.getLogger(name).handlers.clear()
    setup_logger.cache_clear()
    return partial(run_here, TOOL)


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]


def test_training_in_two_processes_leaves_checkpoint_losses_ap_and_pictures(trained: tuple[Path, str]) -> None:
    out, printed = trained
    for name in ("config.yaml", "log.txt", "last_checkpoint", "model_final.pth", "predictions.png", "curves.png"):
        assert (out / name).is_file(), name
    assert not (out / "config.yaml.pkl").exists()  # what detectron2 leaves where plain YAML does not do
    losses, evaluation = metrics(out)
    assert math.isfinite(losses["total_loss"])
    assert losses["loss_mask"] > 0
    assert {"bbox/AP", "segm/AP", "bbox/AP-fig", "segm/AP-plum"} <= set(evaluation)
    assert "World size: 2" in printed
    assert "float16 is for GPUs" in printed


def test_the_checkpoint_holds_plain_tensors_and_the_classes_of_the_json(trained: tuple[Path, str]) -> None:
    saved = torch.load(trained[0] / "model_final.pth", map_location="cpu", weights_only=True)
    assert saved["categories"] == [{"id": id_, "name": name} for id_, name in CATEGORIES.items()]
    assert saved["model"]["roi_heads.box_predictor.cls_score.weight"].shape[0] == len(CATEGORIES) + 1
    assert saved["model"]["roi_heads.mask_head.predictor.weight"].shape[0] == len(CATEGORIES)


def test_resume_goes_on_where_it_stopped_in_one_process_too(
    trained: tuple[Path, str], flags: list[str], tmp_path: Path, tool: Run
) -> None:
    shutil.copytree(trained[0], tmp_path / "out")
    longer = (*flags, f"train.output_dir={tmp_path / 'out'}", "train.max_iter=4", "train.pictures=0")
    refused = tool("--resume", *longer)
    assert "was made with processes 2, now it is 1" in refused.stderr
    done = tool("--resume", "--allow-changed", "processes", *longer)
    assert done.returncode == 0, done.stderr
    assert "Starting training from iteration 2" in (tmp_path / "out" / "log.txt").read_text()
    assert [entry["iteration"] for entry in metrics(tmp_path / "out") if "total_loss" in entry][-1] == 3
    saved = torch.load(tmp_path / "out" / "model_final.pth", map_location="cpu", weights_only=True)
    steps = {int(state["step"]) for state in saved["trainer"]["_trainer"]["optimizer"]["state"].values()}
    assert steps == {4}  # 2 where the optimizer's state was lost


def test_evaluating_the_checkpoint_gives_the_same_ap(
    trained: tuple[Path, str], flags: list[str], tmp_path: Path, tool: Run
) -> None:
    out, printed = trained
    done = tool(
        *("--eval-only", *flags, f"train.init_checkpoint={out / 'model_final.pth'}"),
        f"train.output_dir={tmp_path / 'eval'}",
    )
    assert done.returncode == 0, done.stderr
    copypaste = re.compile(r"copypaste: (\d.*|nan.*)")
    assert len(copypaste.findall(printed)) == 2  # boxes and masks
    assert copypaste.findall(printed) == copypaste.findall((tmp_path / "eval" / "log.txt").read_text())
    scores = [
        [entry["score"] for entry in json.loads((folder / "inference" / "coco_instances_results.json").read_text())]
        for folder in (out, tmp_path / "eval")
    ]
    assert scores[0]
    assert scores[0] == pytest.approx(scores[1])


def test_accumulation_and_averaged_weights_are_keys(flags: list[str], tmp_path: Path, tool: Run) -> None:
    out = tmp_path / "out"
    overrides = ["train.accumulate=2", "train.ema_decay=0.9", "train.pictures=0", f"train.output_dir={out}"]
    done = tool(*flags, *overrides)
    assert done.returncode == 0, done.stderr
    assert (out / "model_final_ema.pth").is_file()
    assert {"ema/bbox/AP", "bbox/AP"} <= set(metrics(out)[-1])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config-file", "missing.py"], "missing.py: no such file"),
        (["--config-file", str(ROOT / "configs/mask_rcnn_hiera_t.yaml")], "YAML is for tools/train_net.py"),
        (["--train-json", "missing.json", "--train-images", "."], "missing.json: "),
        (["--resume"], "--resume: no checkpoint"),
        (["--eval-only", "train.init_checkpoint="], "train.init_checkpoint is empty"),
        (["train.max_itr=3"], "unknown config key train.max_itr; did you mean train.max_iter?"),
        (["optimizer.lr=fast"], "optimizer.lr fast: give a number"),
        (["train.max_iter=1.5"], "train.max_iter 1.5: give a whole number"),
        (["train.max_iter=0"], "train.max_iter 0: give a whole number of at least 1"),
        (["train.amp.enabled=maybe"], "train.amp.enabled maybe: give True or False"),
        (["train.amp.enabled=true"], "train.amp.precision float16 needs a GPU"),
        (["train.parallel=both"], "train.parallel 'both': choose ddp or fsdp"),
        (["train.seed=["], "train.seed=["),
        (["train.init_checkpoint=missing.pth"], "train.init_checkpoint: "),
        (["optimizer.lr", "1e-4"], "optimizer.lr: give key=value"),
        (["train.max_iter=3", "--resume"], "flag --resume stands after the key=value pairs"),
        (["model.backbone=3"], "config node model"),
        (["model.backbone.trunk.size=medium"], "unknown Hiera size 'medium'"),
        (["+model.backbone.trunk.colour=red"], "unexpected keyword argument 'colour'"),
        (["model.roi_heads.mask_pooler.output_size='${model.absent}'"], "config node model"),
        (["model.roi_heads.num_classes=9"], "model.roi_heads.num_classes 9 contradicts"),
        (["dataloader.train.total_batch_size=3", "train.accumulate=2"], "dataloader.train.total_batch_size 3"),
        (["dataloader.train.dataset.names=mine"], "dataloader.train.dataset.names cannot be set together with"),
        (["dataloader.train.mapper.augmentations.2.crop_size=[50,50]"], "crop_size of FixedSizeCrop 50"),
    ],
)
def test_a_mistake_ends_in_one_line(
    flags: list[str], tmp_path: Path, tool: Run, arguments: list[str], says: str
) -> None:
    done = tool(*flags, *arguments, f"train.output_dir={tmp_path / 'out'}")
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    (line,) = [line for line in lines if not WORDS_OF_OTHERS.search(line)]
    assert line.startswith("error: ")
    assert says in line


def test_a_data_set_that_is_not_there_is_named_by_its_node(config: Path, tmp_path: Path, tool: Run) -> None:
    names = ["dataloader.train.dataset.names=coco_2107_train", f"train.output_dir={tmp_path}"]
    done = tool("--config-file", config, *names)
    assert done.returncode == 2
    assert "error: dataloader.train.dataset.names: data set 'coco_2107_train' is not registered" in done.stderr
    assert "coco_2017_train" in done.stderr


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("model = (", "broken.py line 1: SyntaxError"),
        ("train = dict()\nraise KeyError('coco')", "broken.py line 2: KeyError: 'coco'"),
        ("from .absent import model", "ImportError"),
        ("train = dict(max_iter=3)", "broken.py: defines no model"),
    ],
)
def test_a_program_that_fails_is_named_with_the_line(tmp_path: Path, tool: Run, program: str, says: str) -> None:
    (tmp_path / "broken.py").write_text(program)
    done = tool("--config-file", tmp_path / "broken.py")
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help_says_that_a_config_is_a_program(tool: Run) -> None:
    done = tool("--help")
    assert done.returncode == 0
    assert "A LazyConfig is a program, and this tool runs it" in done.stdout
    for flag in ("--config-file", "--train-json", "--eval-only", "--resume", "--num-gpus", "--dist-url"):
        assert flag in done.stdout
