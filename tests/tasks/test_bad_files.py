"""Files that cannot be read, in the trainings of classifiers and autoencoders and in their evaluation."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from media import write_class_folders
from PIL import Image
from torch import nn

from hiera_det.data.bad_images import BadImages
from hiera_det.engine.loader import keyed_loader, unwrap
from hiera_det.engine.order import EpochOrder
from hiera_det.errors import InputError
from hiera_det.tasks.batches import collate, eval_loader, samples_of
from hiera_det.tasks.classify.loss import evaluate
from hiera_det.tasks.classify.train import train
from hiera_det.tasks.pretrain.train import pretrain
from hiera_det.tasks.settings import ClassifierSettings, PretrainSettings
from hiera_det.tasks.transforms import eval_reader

SMALL: dict[str, Any] = {"embed_dim": 16, "depths": (1, 1, 1, 1), "image_size": 64, "batch_size": 4, "epochs": 1}
SMALL |= {"lr": 1e-3, "workers": 0, "device": "cpu", "drop_path": 0.0, "log_period": 1}
PLAIN: dict[str, Any] = {"mixup": 0.0, "cutmix": 0.0, "auto_augment": "", "random_erase": 0.0}
DECODER: dict[str, Any] = {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 2, "pictures": 2}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four images of each of three classes; one is cut off, and one is no image."""
    root = write_class_folders(tmp_path / "images", 4)
    (root / "red" / "0.jpg").write_bytes((root / "red" / "0.jpg").read_bytes()[:200])
    (root / "blue" / "1.jpg").write_bytes(b"no image")
    return root


def files_and_labels(root: Path) -> tuple[list[str], list[int]]:
    files = sorted(str(path) for path in root.rglob("*.jpg"))
    return files, [("blue", "green", "red").index(Path(file).parent.name) for file in files]


@pytest.mark.parametrize("kind", ["uint16", "float32", "transparent"])
def test_deep_and_transparent_images_are_learned_from_as_detectors_see_them(tmp_path: Path, kind: str) -> None:
    grey = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) % 256
    pixels = {
        "uint16": grey * 257,
        "float32": (grey / 255).astype(np.float32),
        "transparent": np.dstack([grey, np.full_like(grey, 255)]).astype(np.uint8),
    }
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "plain.tif")
    Image.fromarray(pixels[kind]).save(tmp_path / "other.tif")
    reader = eval_reader(64)
    torch.testing.assert_close(reader(str(tmp_path / "other.tif")), reader(str(tmp_path / "plain.tif")))


@pytest.mark.parametrize("workers", [0, 2])
def test_another_file_takes_the_place_of_a_bad_one_and_the_seed_says_which(images: Path, workers: int) -> None:
    files, labels = files_and_labels(images)
    drawn = []
    for _ in range(2):
        reader = eval_reader(64).with_limits(10**8, BadImages("skip"))
        order = EpochOrder(12, 4, 1, seed=3)
        loader = keyed_loader(samples_of(files, reader, labels), order, workers, False, collate)
        batches = [unwrap(batch) for batch in loader]
        drawn.append([file for batch in batches for file in batch.files])
        assert reader.bad_images.count >= 2
        for batch in batches:
            assert [labels[files.index(file)] for file in batch.files] == batch.labels.tolist()
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 12
    assert not {"red/0.jpg", "blue/1.jpg"} & {"/".join(Path(file).parts[-2:]) for file in drawn[0]}


class Blue(nn.Module):
    """Calls everything blue."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[1.0, 0, 0]]).expand(len(images), 3)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_evaluation_leaves_bad_files_out_or_names_them(images: Path, batch_size: int) -> None:
    files, labels = files_and_labels(images)
    reader = eval_reader(64).with_limits(10**8, BadImages("skip"))
    samples = samples_of(files, reader, labels, replace=False)
    accuracy = evaluate(Blue(), eval_loader(samples, batch_size, 0, False), torch.device("cpu"), progress=False)
    assert accuracy.images == 10
    assert accuracy.top1 == pytest.approx(3 / 10)
    assert reader.bad_images.count == 2
    refusing = eval_loader(samples_of(files, eval_reader(64), labels, replace=False), batch_size, 2, False)
    with pytest.raises(InputError, match=r"1\.jpg: cannot be read as an image"):
        evaluate(Blue(), refusing, torch.device("cpu"), progress=False)
    none = samples_of([files[1]], reader, [0], replace=False)
    with pytest.raises(InputError, match="none of the images to evaluate on can be read"):
        evaluate(Blue(), eval_loader(none, 1, 0, False), torch.device("cpu"), progress=False)


def test_a_classifier_trains_past_bad_files(images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    places = {"train": str(images), "val": str(images)}
    with pytest.raises(InputError, match=r"jpg: cannot be read as an image"):
        train(ClassifierSettings(output=str(tmp_path / "fail"), **places, **SMALL, **PLAIN))
    out = tmp_path / "skip"
    with caplog.at_level(logging.WARNING):
        train(ClassifierSettings(output=str(out), **places, **SMALL, **PLAIN, on_bad_image="skip"))
    assert (out / "model_final.pth").is_file()
    log = (out / "log.txt").read_text()
    assert "times another file took the place of one that cannot be read" in log
    assert "(10 images)" in log
    assert any("val_loss" in json.loads(line) for line in (out / "metrics.json").read_text().splitlines())


def test_pretraining_goes_past_bad_files(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = {"images": str(images), **SMALL, **DECODER}
    with pytest.raises(InputError, match=r"jpg: cannot be read as an image"):
        pretrain(PretrainSettings(output=str(tmp_path / "fail"), **settings))
    pretrain(PretrainSettings(output=str(out), **settings, on_bad_image="skip"))
    assert {"model_final.pth", "reconstructions.png"} <= {path.name for path in out.iterdir()}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"on_bad_image": "ignore"}, "on_bad_image 'ignore': choose fail or skip"),
        ({"max_pixels": 0}, "max_pixels 0: must be a whole number of at least 1"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        PretrainSettings(output="out", images="images", **settings)


def test_images_above_the_limit_count_as_bad(images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cut it into tiles"):
        pretrain(PretrainSettings(output=str(tmp_path / "out"), images=str(images), **SMALL, **DECODER, max_pixels=50))
