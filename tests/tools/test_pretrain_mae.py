"""tools/pretrain_mae.py as a user runs it: from a folder of images or videos to weights that others start from."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from media import write_class_folders, write_video
from PIL import Image

from hiera_det.errors import InputError
from hiera_det.tasks.pretrain.train import pretrain
from hiera_det.tasks.settings import PretrainSettings
from hiera_det.weights.load import load_weights
from hiera_det.weights.sources import read_weight_file
from hiera_det.zoo import build_hiera, hiera_classifier, hiera_mae

TOOL = Path(__file__).parents[2] / "tools" / "pretrain_mae.py"
TRUNK: dict[str, Any] = {"embed_dim": 16, "num_heads": 1, "depths": (1, 1, 1, 1), "pretrain_size": 64}
DECODER = {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 2}
SMALL = ["--embed-dim", "16", "--depths", *"1111", "--image-size", "64"]
SMALL += ["--decoder-embed-dim", "32", "--decoder-depth", "1", "--decoder-num-heads", "2"]
SMALL += ["--batch-size", "4", "--epochs", "2", "--lr", "1e-3", "--workers", "0", "--log-period", "2"]
SMALL += ["--device", "cpu", "--pictures", "2"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folders(tmp_path_factory.mktemp("images") / "all", 4)


@pytest.fixture(scope="module")
def output(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining of two epochs, in its own process."""
    out = tmp_path_factory.mktemp("pretrained") / "out"
    words = [sys.executable, str(TOOL), "--images", str(images), "--output", str(out), *SMALL]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].endswith(str(out / "model_final.pth"))
    assert "epoch 2/2  iteration 6/6  loss " in (out / "log.txt").read_text()
    return out


def test_what_a_pretraining_leaves(output: Path) -> None:
    assert {path.name for path in output.iterdir() if not path.name.startswith("events")} == {
        *(
            "checkpoint.pth",
            "checkpoint.previous.pth",
            "curves.png",
            "last_checkpoint",
            "log.txt",
            "metrics.json",
            "run.json",
        ),
        *("model_final.pth", "reconstructions.png"),
    }
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [2, 3, 4, 6]
    assert all(set(line) == {"iteration", "epoch", "loss", "lr"} for line in lines)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert Image.open(output / "reconstructions.png").size == (4 * 68 - 4, 2 * 68 - 4)


def test_the_weights_are_in_the_authors_layout_and_load_everywhere(output: Path) -> None:
    weights = str(output / "model_final.pth")
    loaded = read_weight_file(weights)
    assert loaded["config"] == TRUNK | DECODER | {"depths": [1, 1, 1, 1], "frames": 0}
    report = load_weights(hiera_mae("tiny", **TRUNK, **DECODER), str(output))  # the folder's newest
    assert (report.layout, report.initialised, report.dropped) == ("the authors' Hiera", (), ())
    build_hiera("tiny", weights=weights, **TRUNK)
    hiera_classifier("tiny", 3, weights=weights, **TRUNK)


def test_a_detector_takes_the_weights(output: Path, request: pytest.FixtureRequest) -> None:
    from detectron2.modeling import build_model

    from hiera_det.d2.config.load import load_config
    from hiera_det.d2.train.checkpoint import HieraCheckpointer

    run_folder = request.getfixturevalue("run_folder")  # whose config is of a trunk as small
    model = build_model(load_config(str(run_folder / "config.yaml"), []))
    HieraCheckpointer(model).load(str(output / "model_final.pth"))
    state = read_weight_file(str(output / "model_final.pth"))["model_state"]
    weight = dict(model.named_parameters())["backbone.trunk.blocks.0.attn.qkv.weight"]
    assert weight.equal(state["blocks.0.attn.qkv.weight"])


def test_a_used_folder_needs_a_word_and_a_whole_training_is_gone_on_from_to_no_effect(
    images: Path, output: Path, run_here: Any
) -> None:
    words = (TOOL, "--images", images, *SMALL, "--output", output)
    before = (output / "metrics.json").read_text()
    refused = run_here(*words)
    assert refused.returncode == 2
    assert f"--output {output}: a training is there already; give --resume, or another folder" in refused.stderr
    again = run_here(*words, "--resume")
    assert again.returncode == 0, again.stderr
    assert f"resuming at iteration 6 from {output / 'checkpoint.pth'}" in again.stderr
    assert "model_final.pth: is" not in again.stderr
    assert (output / "metrics.json").read_text() == before


def test_python_trains_too(images: Path, tmp_path: Path) -> None:
    settings = PretrainSettings(
        images=str(images),
        output=str(tmp_path / "out"),
        **{"embed_dim": 16, "depths": (1, 1, 1, 1), "image_size": 64, "decoder_embed_dim": 32, "decoder_depth": 1},
        **{"decoder_num_heads": 2, "batch_size": 4, "epochs": 1, "workers": 0, "device": "cpu", "pictures": 0},
    )
    assert pretrain(settings) == 0
    with pytest.raises(InputError, match=r"output .+: a training is there already"):
        pretrain(settings)
    with pytest.raises(InputError, match="was made with batch_size 4, now it is 6"):
        pretrain(replace(settings, batch_size=6, resume=True))


def test_clips_are_pretrained_on_too(tmp_path: Path, run_here: Any) -> None:
    (tmp_path / "videos").mkdir()
    for number in range(4):
        write_video(tmp_path / "videos" / f"{number}.mp4", 20)
    words = ("--frames", "4", "--stride", "2", "--mask-ratio", "0.75", *SMALL)
    done = run_here(TOOL, "--videos", tmp_path / "videos", "--output", tmp_path / "out", *words)
    assert done.returncode == 0, done.stderr
    report = load_weights(hiera_mae("tiny", frames=4, **TRUNK, **DECODER), str(tmp_path / "out"))
    assert (report.initialised, report.dropped) == ((), ())
    assert Image.open(tmp_path / "out" / "reconstructions.png").size == (4 * 68 - 4, 2 * 68 - 4)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "give one folder to pretrain on"),
        (["--images", "EMPTY"], "there are no images below this folder"),
        (["--images", "none"], "none: no such folder"),
        (["--images", "IMAGES", "--frames", "16"], "--frames is for clips"),
        (["--images", "IMAGES", "--mask-ratio", "1.5"], "--mask-ratio 1.5: must be above 0 and below 1"),
        (["--images", "IMAGES", "--mask-ratio", "0.9"], "mask_ratio 0.9 keeps 0 of 4 mask units"),
        (["--images", "IMAGES", "--image-size", "100"], "--image-size 100: must be a positive multiple of 32"),
        (["--images", "IMAGES", "--batch-size", "100"], "--batch-size 100: there are 12 files; lower it"),
        (["--images", "IMAGES", "--epochs", "0"], "--epochs 0: must be a whole number of at least 1"),
        (["--images", "IMAGES", "--lr", "nan"], "--lr nan: must be a number of at least 0"),
        (["--images", "IMAGES", "--lr", "1e30"], "not finite: loss "),
        (["--images", "IMAGES", "--resume"], "--resume: there is no checkpoint in "),
        (["--images", "IMAGES", "--embed-dim", "15", "--num-heads", "2"], "embed_dim 15: must be a positive multiple"),
        (["--images", "BROKEN"], ".jpg: cannot be read as an image"),
        (["--images", "IMAGES", "--output", "IMAGES/red/0.jpg/out"], "cannot be written"),
        (["--videos", "IMAGES"], "there are no videos below this folder"),
        (["--videos", "SHORT"], ".mp4: has 3 frames, and a clip needs 16"),
        (["--videos", "SHORT", "--frames", "3"], "--frames 3: must be a positive multiple of 2"),
    ],
)
def test_mistakes_end_in_one_line(words: list[str], says: str, images: Path, tmp_path: Path, run_here: Any) -> None:
    for name in ("EMPTY", "BROKEN", "SHORT"):
        (tmp_path / name).mkdir()
    for number in range(4):
        (tmp_path / "BROKEN" / f"broken{number}.jpg").write_bytes(b"no image")
        if "SHORT" in words:
            write_video(tmp_path / "SHORT" / f"short{number}.mp4", 3)
    places = {"IMAGES": images} | {name: tmp_path / name for name in ("EMPTY", "BROKEN", "SHORT")}
    filled = []
    for word in words:
        first, slash, rest = word.partition("/")
        filled.append(f"{places.get(first, first)}{slash}{rest}")
    done = run_here(TOOL, "--output", tmp_path / "out", *SMALL, "--pictures", "0", *filled)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.stderr
    assert says in line
