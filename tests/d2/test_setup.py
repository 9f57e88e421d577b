"""From flags, files and KEY VALUE pairs to a config, or to one line that says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hiera_det.d2.config.load import load_config
from hiera_det.d2.config.request import RunRequest
from hiera_det.d2.config.setup import setup_config
from hiera_det.errors import InputError

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = str(CONFIGS / "mask_rcnn_hiera_t_1x.yaml")


def arguments(out: Path, *opts: str, **flags: Any) -> RunRequest:
    """What the command line gives, with random weights and the output folder of the test."""
    words = ("MODEL.WEIGHTS", "", "OUTPUT_DIR", str(out), *opts)
    return RunRequest(**({"config_file": TINY, "opts": words} | flags))


@pytest.fixture
def own(tmp_path: Path) -> dict[str, str]:
    """One image with one object, as training data by path."""
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (16, 12)).save(images / "a.png")
    annotation = {"id": 1, "image_id": 1, "category_id": 5, "bbox": [2, 2, 8, 6], "area": 48, "iscrowd": 0}
    data = {
        "info": {},
        "images": [{"id": 1, "file_name": "a.png", "width": 16, "height": 12}],
        "annotations": [annotation | {"segmentation": [[2, 2, 10, 2, 10, 8, 2, 8]]}],
        "categories": [{"id": 5, "name": "fig"}],
    }
    (tmp_path / "train.json").write_text(json.dumps(data))
    return {"train_json": str(tmp_path / "train.json"), "train_images": str(images)}


def refusal(args: RunRequest) -> str:
    """The one line with which the set-up ends."""
    with pytest.raises(InputError) as caught:
        setup_config(args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_own_data_gives_a_frozen_config_with_its_classes(tmp_path: Path, own: dict[str, str]) -> None:
    cfg = setup_config(arguments(tmp_path / "out", **own))
    assert cfg.is_frozen()
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 1
    assert (tmp_path / "out").is_dir()
    if not torch.cuda.is_available():
        assert cfg.MODEL.DEVICE == "cpu"


@pytest.mark.parametrize(
    ("opts", "says"),
    [
        (["MODEL.HIERA.SIZ", "base"], ["MODEL.HIERA.SIZ", "did you mean MODEL.HIERA.SIZE?"]),
        (["NO_SUCH_NODE.KEY", "1"], ["NO_SUCH_NODE"]),
        (["SOLVER.MAX_ITER.MORE", "1"], ["SOLVER.MAX_ITER.MORE 1"]),
        (["SOLVER.STEPS", "5"], ["SOLVER.STEPS 5"]),
        (["MODEL.HIERA.SIZE", "gigantic"], ["gigantic", "tiny, small, base, base_plus, large or huge"]),
        (["SOLVER.MAX_ITER", "many"], ["SOLVER.MAX_ITER"]),
        (["SOLVER.MAX_ITER"], ["SOLVER.MAX_ITER", "no value"]),
        (["SOLVER.MAX_ITER", "5", "--resume", "x"], ["--resume", "before"]),
        (["SOLVER.AMP.ENABLED", "True", "MODEL.DEVICE", "cpu"], ["SOLVER.AMP.ENABLED"]),
        (["SOLVER.IMS_PER_BATCH", "0"], ["SOLVER.IMS_PER_BATCH 0"]),
        (["TEST.IMS_PER_BATCH", "0"], ["TEST.IMS_PER_BATCH 0"]),
        (["TEST.AUTOCAST", "float16", "MODEL.DEVICE", "cpu"], ["TEST.AUTOCAST float16", "needs a GPU"]),
        (["TEST.COCO_EVAL", "fast"], ["TEST.COCO_EVAL 'fast'", "pycocotools"]),
        (["MODEL.WEIGHTS", "no/such/file.pth"], ["no/such/file.pth", 'MODEL.WEIGHTS ""']),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "3"], ["NUM_CLASSES", "3", "1", "train.json"]),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, own: dict[str, str], opts: list[str], says: list[str]) -> None:
    message = refusal(arguments(tmp_path / "out", *opts, **own))
    assert all(part in message for part in says), message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("MODEL: {HIERA: {SIZZE: base}}", "MODEL.HIERA.SIZZE"),
        ("MODEL: [unclosed", "not valid YAML"),
        ("_BASE_: missing.yaml", "missing.yaml"),
        ("_BASE_: config.yaml", "leads back"),
        ("SOLVER: 3", "SOLVER"),
        ("", "where keys belong"),
        ("just text", "where keys belong"),
        ("MODEL: !!python/object/apply:os.system ['true']", "not valid YAML"),
        (None, "no such file"),
    ],
)
def test_a_wrong_config_file_is_named(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(str(path))
    assert "\n" not in str(caught.value)
    assert "config.yaml" in str(caught.value)
    assert says in str(caught.value)


def test_a_config_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"\x89PNG\xff")
    with pytest.raises(InputError, match=r"config\.yaml: not a text file"):
        load_config(str(tmp_path / "config.yaml"))


def test_workers_do_not_look_for_the_images_again(tmp_path: Path, own: dict[str, str]) -> None:
    first = setup_config(arguments(tmp_path / "out", **own))
    (Path(own["train_images"]) / "a.png").unlink()
    worker = setup_config(arguments(tmp_path / "out", **own), check_files=False)
    assert worker == first
    assert "a.png" in refusal(arguments(tmp_path / "out", **own))


def test_resuming_without_a_checkpoint_is_refused_before_workers_start(tmp_path: Path, own: dict[str, str]) -> None:
    assert "--resume: no checkpoint in" in refusal(arguments(tmp_path / "out", resume=True, **own))


def test_an_output_folder_that_cannot_be_is_refused(tmp_path: Path, own: dict[str, str]) -> None:
    (tmp_path / "file").write_text("")
    assert "OUTPUT_DIR" in refusal(arguments(tmp_path / "file" / "out", **own))


def test_nothing_to_train_or_evaluate_on_is_refused(tmp_path: Path) -> None:
    empty = ["DATASETS.TRAIN", "()", "DATASETS.TEST", "()"]
    assert "--train-json" in refusal(arguments(tmp_path / "out", *empty))
    assert "--val-json" in refusal(arguments(tmp_path / "out", *empty, eval_only=True))


def test_evaluating_without_weights_is_refused(tmp_path: Path, own: dict[str, str]) -> None:
    validation = {"val_json": own["train_json"], "val_images": own["train_images"]}
    assert "MODEL.WEIGHTS is empty" in refusal(arguments(tmp_path / "out", **validation, eval_only=True))


def test_a_batch_that_the_processes_cannot_share_is_refused(tmp_path: Path, own: dict[str, str]) -> None:
    args = arguments(tmp_path / "out", "SOLVER.IMS_PER_BATCH", "4", num_machines=3, **own)
    assert refusal(args).endswith("a multiple of the processes times SOLVER.ACCUMULATE, 3 x 1")


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU where there is none")
@pytest.mark.parametrize("asked", [{"num_gpus": 2}, {"opts": ["MODEL.DEVICE", "cuda"]}])
def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path, own: dict[str, str], asked: dict[str, Any]) -> None:
    args = arguments(tmp_path / "out", *asked.get("opts", []), num_gpus=asked.get("num_gpus", 1), **own)
    message = refusal(args)
    assert "0 GPUs" in message
    assert "MODEL.DEVICE cpu" in message
