"""tools/classify.py as a user runs it: images, folders and videos, names of classes, and accuracies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from media import write_class_folders, write_video

from hiera_det.data.video import read_views
from hiera_det.modeling.classifier import HieraForClassification
from hiera_det.modeling.mae import HieraMAE
from hiera_det.tasks.transforms import eval_reader
from hiera_det.weights.model_file import write_model_file

TOOL = Path(__file__).parents[2] / "tools" / "classify.py"
FIELDS: dict[str, Any] = {"embed_dim": 16, "num_heads": 1, "depths": [1, 1, 1, 1], "pretrain_size": 64, "frames": 0}
NAMES = ["blue", "green", "red"]


def classifier(**other: Any) -> HieraForClassification:
    """Random weights with a head that tells images apart."""
    torch.manual_seed(0)
    model = HieraForClassification(num_classes=3, **FIELDS | other).eval()
    model.head.projection.weight.data *= 1000
    return model


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    write_model_file(str(tmp_path / "w.pth"), classifier(), FIELDS, NAMES)
    return tmp_path / "w.pth"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_class_folders(tmp_path / "images", 2)


def test_every_image_below_a_folder_gets_its_best_guesses(
    weights: Path, images: Path, tmp_path: Path, run_here: Any
) -> None:
    words = ("--weights", weights, "--json", tmp_path / "new" / "found.json", "--topk", "2", "--device", "cpu")
    done = run_here(TOOL, images, images / "red" / "0.jpg", *words)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == str(images / "blue" / "0.jpg")
    assert len(lines) == 7 * 3 + 1
    assert lines[-1] == str(tmp_path / "new" / "found.json")
    found = json.loads((tmp_path / "new" / "found.json").read_text())
    assert [Path(entry["file"]).name for entry in found] == ["0.jpg", "1.jpg"] * 3 + ["0.jpg"]
    image = eval_reader(64)(str(images / "red" / "0.jpg"))[None]
    expected = classifier()(image).softmax(dim=1)[0].topk(2)
    best = found[-1]["predictions"]
    assert [guess["class"] for guess in best] == expected.indices.tolist()
    assert [guess["name"] for guess in best] == [NAMES[index] for index in expected.indices]
    assert [guess["probability"] for guess in best] == pytest.approx(expected.values.tolist(), abs=1e-5)
    assert lines[-3].split() == [f"{100 * expected.values[0]:.1f}%", best[0]["name"]]


def test_a_video_gets_the_mean_over_its_views(tmp_path: Path, run_here: Any) -> None:
    write_model_file(str(tmp_path / "w.pth"), classifier(frames=4), FIELDS | {"frames": 4})
    path = write_video(tmp_path / "a.mp4", 60)
    words = ("--weights", tmp_path / "w.pth", "--json", tmp_path / "found.json", "--device", "cpu")
    done = run_here(TOOL, path, *words)
    assert done.returncode == 0, done.stderr
    views = read_views(str(path), frames=4, size=64)
    assert len(views) == 15
    mean = classifier(frames=4)(views).softmax(dim=1).mean(dim=0)
    (found,) = json.loads((tmp_path / "found.json").read_text())
    assert {guess["class"]: guess["probability"] for guess in found["predictions"]} == pytest.approx(
        dict(enumerate(mean.tolist())), abs=1e-5
    )
    one = run_here(TOOL, tmp_path, *words, "--views", "1", "1")  # a folder, of which the video is taken
    assert one.returncode == 0, one.stderr
    assert one.stdout.splitlines()[0] == str(path)


def test_names_come_from_the_weights_or_a_file_or_are_numbers(
    weights: Path, images: Path, tmp_path: Path, run_here: Any
) -> None:
    (tmp_path / "names.txt").write_text("azul\nverde\nrojo\n")
    write_model_file(str(tmp_path / "bare.pth"), classifier(), FIELDS)
    image = images / "red" / "0.jpg"

    def names(*words: Any) -> set[str]:
        done = run_here(TOOL, image, "--device", "cpu", *words)
        assert done.returncode == 0, done.stderr
        return {line.split()[1] for line in done.stdout.splitlines()[1:]}

    assert names("--weights", weights) == {"blue", "green", "red"}
    assert names("--weights", weights, "--classes", tmp_path / "names.txt") == {"azul", "verde", "rojo"}
    assert names("--weights", tmp_path / "bare.pth") == {"0", "1", "2"}


def test_accuracy_is_that_of_the_guesses(weights: Path, images: Path, tmp_path: Path, run_here: Any) -> None:
    words = ("--device", "cpu", "--json", tmp_path / "found.json", "--weights")
    assert run_here(TOOL, images, *words, weights).returncode == 0
    found = json.loads((tmp_path / "found.json").read_text())
    right = [Path(entry["file"]).parent.name == entry["predictions"][0]["name"] for entry in found]
    done = run_here(TOOL, "--evaluate", images, "--workers", "0", *words, weights)
    assert done.returncode == 0, done.stderr
    accuracy = json.loads((tmp_path / "found.json").read_text())
    assert accuracy["top1"] == pytest.approx(sum(right) / 6)
    assert f"top-1 {100 * accuracy['top1']:.2f}%  top-5 100.00%  (6 images)" in done.stdout
    # A published file has no names: the folders count in their order, as ImageNet's do.
    write_model_file(str(tmp_path / "bare.pth"), classifier(), FIELDS)
    assert run_here(TOOL, "--evaluate", images, "--workers", "0", *words, tmp_path / "bare.pth").returncode == 0
    assert json.loads((tmp_path / "found.json").read_text()) == accuracy


def test_folders_are_evaluated_by_name_whatever_the_order_of_the_classes(
    weights: Path, images: Path, tmp_path: Path, run_here: Any
) -> None:
    order = [2, 0, 1]
    other = classifier()
    for parameter in other.head.parameters():
        parameter.data = parameter.data[order]
    write_model_file(str(tmp_path / "other.pth"), other, FIELDS, [NAMES[index] for index in order])
    found = []
    for file in (weights, tmp_path / "other.pth"):
        words = ("--evaluate", images, "--workers", "0", "--device", "cpu", "--json", tmp_path / "a.json")
        assert run_here(TOOL, *words, "--weights", file).returncode == 0
        found.append(json.loads((tmp_path / "a.json").read_text()))
    assert found[1] == pytest.approx(found[0])
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    done = run_here(TOOL, images, "--weights", tmp_path / "other.pth", "--classes", tmp_path / "names.txt")
    assert "--classes: class 0 is 'blue', which is class 1 in " in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--weights", "W"], "give images or videos to classify, or --evaluate DIR alone"),
        (["IMAGES", "--evaluate", "IMAGES", "--weights", "W"], "give images or videos to classify"),
        (["IMAGES", "--weights", "none.pth"], "none.pth"),
        (["none.jpg", "--weights", "W"], "none.jpg: no such file or folder"),
        (["EMPTY", "--weights", "W"], "there are no images below this folder"),
        (["BAD.jpg", "--weights", "W"], "BAD.jpg: cannot be read as an image"),
        (["IMAGES", "--weights", "MAE"], "no classifier; train one by tools/train_classifier.py"),
        (["IMAGES", "--weights", "W", "--classes", "TWO"], "names 2 classes, and "),
        (["IMAGES", "--weights", "W", "--classes", "none.txt"], "--classes none.txt: cannot be read"),
        (["IMAGES", "--weights", "W", "--classes", "GAP"], "GAP: line 2 is empty"),
        (["IMAGES", "--weights", "W", "--topk", "0"], "--topk 0: must be at least 1"),
        (["IMAGES", "--weights", "W", "--image-size", "50"], "--image-size 50: must be a positive multiple of 32"),
        (["--evaluate", "EMPTY", "--weights", "W"], "there are no class folders in it"),
        (["--evaluate", "MORE", "--weights", "W"], "1 of its 1 classes are none of the model's 3 (more)"),
        (["--evaluate", "MORE", "--weights", "BARE"], "has 1 classes, and the model 3, whose names are not known"),
        (["--evaluate", "IMAGES", "--weights", "VIDEO"], "there are no videos below this folder"),
        (["SHORT.mp4", "--weights", "W"], "SHORT.mp4: is a video, and the model takes images"),
        (["SHORT.mp4", "--weights", "VIDEO"], "SHORT.mp4: has 3 frames, and a clip needs 16"),
        (["BAD.mp4", "--weights", "VIDEO"], "BAD.mp4: cannot be read as a video"),
        (["BAD.jpg", "--weights", "VIDEO"], "BAD.jpg: is an image, and the model takes clips"),
        (["SHORT.mp4", "--weights", "VIDEO", "--views", "2", "5"], "views 2x5: give 1 or 3 crops"),
    ],
)
def test_mistakes_end_in_one_line(
    words: list[str], says: str, weights: Path, images: Path, tmp_path: Path, run_here: Any
) -> None:
    mae = HieraMAE(**FIELDS, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=1)
    write_model_file(str(tmp_path / "MAE"), mae, FIELDS)
    write_model_file(str(tmp_path / "BARE"), classifier(), FIELDS)
    video = FIELDS | {"frames": 16}
    write_model_file(str(tmp_path / "VIDEO"), classifier(frames=16), video)
    (tmp_path / "TWO").write_text("a\nb\n")
    (tmp_path / "GAP").write_text("a\n\nb\n")
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "BAD.jpg").write_bytes(b"no image")
    (tmp_path / "BAD.mp4").write_bytes(b"no video")
    write_class_folders(tmp_path / "MORE", 1, {"more": (0, 0, 0)})
    write_video(tmp_path / "SHORT.mp4", 3)
    places = {"W": weights, "IMAGES": images}
    places |= {path.name: path for path in tmp_path.iterdir() if path.name[:2].isupper()}
    done = run_here(TOOL, *(places.get(word, word) for word in words), "--device", "cpu")
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert says in line
    assert "Traceback" not in done.stderr


def test_a_bad_file_costs_a_line_and_the_exit_status(
    weights: Path, images: Path, tmp_path: Path, run_here: Any
) -> None:
    (images / "green" / "0.jpg").write_bytes((images / "green" / "0.jpg").read_bytes()[:300])
    words = ("--weights", weights, "--json", tmp_path / "found.json", "--device", "cpu")
    done = run_here(TOOL, images, *words)
    assert done.returncode == 1
    assert "green/0.jpg: cannot be read as an image (" in done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert ["error" in entry for entry in found] == [False, False, True, False, False, False]
    done = run_here(TOOL, images, *words, "--on-bad-image", "fail")
    assert done.returncode == 2
    assert len(json.loads((tmp_path / "found.json").read_text())) == 2  # what was found before


def test_a_large_image_is_refused_by_the_limit(weights: Path, images: Path, run_here: Any) -> None:
    done = run_here(TOOL, images, "--weights", weights, "--device", "cpu", "--max-pixels", "100")
    assert done.returncode == 2
    assert "cut it into tiles, or raise the limit, INPUT.MAX_PIXELS or --max-pixels" in done.stderr
