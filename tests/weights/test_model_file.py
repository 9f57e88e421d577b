"""Files that say what model they are of, and published ones that show it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hiera_det.errors import InputError
from hiera_det.modeling.classifier import HieraForClassification
from hiera_det.modeling.mae import HieraMAE
from hiera_det.weights.model_file import load_classifier, read_model_file, write_model_file
from hiera_det.zoo import hiera_classifier, hiera_mae

FIELDS = {"embed_dim": 16, "num_heads": 2, "depths": [1, 1, 1, 1], "pretrain_size": 64, "frames": 0}


def test_a_classifier_comes_back_with_its_size_and_classes(tmp_path: Path) -> None:
    model = HieraForClassification(num_classes=2, **FIELDS).eval()
    path = tmp_path / "model.pth"
    write_model_file(str(path), model, FIELDS, ["cat", "dog"])
    again, file = load_classifier(str(path))
    assert file.classes == ("cat", "dog")
    assert file.fields == FIELDS
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(again(images), model(images), atol=0, rtol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


@pytest.mark.parametrize(("size", "frames"), [("tiny", 0), ("base", 16)])
def test_a_published_file_is_recognised_by_its_tensors(size: str, frames: int, tmp_path: Path) -> None:
    with torch.device("meta"):
        model = hiera_classifier(size, 7, frames=frames)
    state = {name: torch.zeros(tensor.shape, dtype=torch.float16) for name, tensor in model.state_dict().items()}
    torch.save({"model_state": state}, tmp_path / "published.pth")
    file = read_model_file(str(tmp_path / "published.pth"))
    assert file.size == size
    assert file.classes == ()
    assert file.fields["pretrain_size"] == 224
    assert file.fields["frames"] == frames
    assert tuple(file.fields["depths"]) == model.depths


def test_a_model_of_no_published_size_that_says_nothing_is_refused(tmp_path: Path) -> None:
    torch.save(HieraForClassification(num_classes=2, **FIELDS).state_dict(), tmp_path / "bare.pth")
    with pytest.raises(InputError, match=r"bare.pth: it is a Hiera of embed dim 16 .* give --embed-dim"):
        read_model_file(str(tmp_path / "bare.pth"))


def test_a_pretrained_file_is_no_classifier(tmp_path: Path) -> None:
    model = HieraMAE(**FIELDS, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=1)
    write_model_file(str(tmp_path / "mae.pth"), model, FIELDS)
    with pytest.raises(InputError, match=r"MAE pretraining, with its decoder, no classifier"):
        load_classifier(str(tmp_path / "mae.pth"))


def test_names_that_are_not_as_many_as_the_classes_are_refused(tmp_path: Path) -> None:
    write_model_file(str(tmp_path / "m.pth"), HieraForClassification(num_classes=2, **FIELDS), FIELDS, ["cat"])
    with pytest.raises(InputError, match="names 1 classes, and its head has 2"):
        load_classifier(str(tmp_path / "m.pth"))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("embed_dim", 10**7, "embed_dim 10000000"),
        ("embed_dim", "x", "embed_dim 'x'"),
        ("depths", [10**5, 1, 1, 1], "depths a list"),
        ("depths", 4, "depths 4"),
        ("num_heads", 0, "num_heads 0"),
        ("num_heads", 3, "num_heads 3"),
        ("num_heads", [2], "num_heads a list"),
        ("num_heads", None, "num_heads None"),
        ("pretrain_size", 10**7, "pretrain_size 10000000"),
        ("pretrain_size", [64, 32], "pretrain_size a list"),
        ("pretrain_size", 10**30, "pretrain_size a number beyond 64 bits"),
        ("frames", 16, "frames 16"),
        ("frames", True, "frames True"),
    ],
)
def test_dimensions_that_are_not_the_tensors_are_refused_before_anything_is_built(
    name: str, value: object, says: str, tmp_path: Path
) -> None:
    model = HieraForClassification(num_classes=2, **FIELDS)
    write_model_file(tmp_path / "model.pth", model, {**FIELDS, name: value})
    with pytest.raises(InputError, match=rf"model\.pth: it says that its model has {says}, and its tensors are of a"):
        load_classifier(tmp_path / "model.pth")


def test_a_rectangular_model_comes_back_and_names_its_longer_side(tmp_path: Path) -> None:
    fields = {**FIELDS, "pretrain_size": [64, 96]}
    model = HieraForClassification(num_classes=2, **fields).eval()
    write_model_file(tmp_path / "model.pth", model, fields)
    again, file = load_classifier(tmp_path / "model.pth")
    assert file.image_size == 96
    images = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(again(images), model(images), atol=0, rtol=0)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_model_file(str(tmp_path / "no" / "m.pth"), hiera_mae("tiny", **_SMALL), FIELDS)


_SMALL = {**FIELDS, "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 1}
