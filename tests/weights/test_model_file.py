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
    state = {name: torch.zeros(1).expand(tensor.shape) for name, tensor in model.state_dict().items()}
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


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_model_file(str(tmp_path / "no" / "m.pth"), hiera_mae("tiny", **_SMALL), FIELDS)


_SMALL = {**FIELDS, "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 1}
