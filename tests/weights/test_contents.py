"""A file is recognised by the names of its tensors."""

from __future__ import annotations

from collections.abc import Callable

import hiera
import pytest
import timm
import torch
import transformers
from torch import Tensor, nn
from torchvision.models import resnet18

from hiera_det import build_hiera, build_hieradet
from hiera_det.errors import InputError
from hiera_det.weights.contents import Contents, parse

SMALL = {"embed_dim": 16, "num_heads": 1, "depths": (1, 2, 2, 1)}
HF_SMALL = {"embed_dim": 16, "depths": [1, 2, 2, 1], "num_heads": [1, 2, 4, 8]}
HF_DECODER = {"decoder_hidden_size": 32, "decoder_depth": 1, "decoder_num_heads": 1, "num_query_pool": 2}
STAGES = {"embed_dim": 16, "num_heads": 1, "stages": (1, 2, 2, 1)}


def contents(state: dict[str, Tensor], **around: object) -> Contents:
    return parse({"model": state, **around} if around else state, "file.pth")


def small() -> dict[str, Tensor]:
    return build_hiera("tiny", **SMALL).state_dict()


FILES: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "official": (lambda: hiera.Hiera(**STAGES), "the authors' Hiera", "a classifier of 1000 classes"),
    "official MAE": (lambda: hiera.MaskedAutoencoderHiera(q_pool=2, **STAGES), "the authors' Hiera", "MAE pretraining"),
    "timm": (lambda: timm.models.hiera.Hiera(**STAGES), "timm's Hiera", "a classifier of 1000 classes"),
    "transformers": (
        lambda: transformers.HieraModel(transformers.HieraConfig(**HF_SMALL)),
        "transformers' Hiera",
        "a trunk",
    ),
    "transformers classifier": (
        lambda: transformers.HieraForImageClassification(transformers.HieraConfig(num_labels=7, **HF_SMALL)),
        "transformers' Hiera",
        "a classifier of 7 classes",
    ),
    "transformers MAE": (
        lambda: transformers.HieraForPreTraining(transformers.HieraConfig(**HF_SMALL, **HF_DECODER)),
        "transformers' Hiera",
        "MAE pretraining",
    ),
    "ours": (lambda: build_hiera("tiny", **SMALL), "the authors' Hiera", "a trunk"),
}


@pytest.mark.parametrize("name", FILES)
def test_layout_and_purpose_are_told(name: str) -> None:
    build, layout, kind = FILES[name]
    found = contents(build().state_dict())
    assert found.layout.title == layout
    assert found.kind.startswith(kind)
    assert found.depths == (1, 2, 2, 1)
    assert found.embed_dim == 16
    assert set(found.trunk) == set(small())
    assert not found.unknown
    assert not found.others


@pytest.mark.parametrize("size", ["tiny", "small", "base_plus", "large"])
def test_published_sizes_are_told_by_name(size: str) -> None:
    with torch.device("meta"):
        assert contents(build_hiera(size).state_dict()).model_name == f"hiera_{size}"
        assert contents(build_hieradet(size).state_dict()).model_name == f"hieradet_{size}"


def test_other_sizes_are_told_by_their_dimensions() -> None:
    assert contents(small()).model_name == "a Hiera of embed dim 16 and depths (1, 2, 2, 1)"


@pytest.mark.parametrize("key", ["model_state", "model", "state_dict"])
def test_the_tensors_may_lie_under_a_key(key: str) -> None:
    found = parse({key: small(), "epoch": 3, "optimizer": {"lr": 0.1}}, "file.pth")
    assert found.container == key
    assert set(found.trunk) == set(small())


def test_averaged_weights_are_taken_before_raw_ones() -> None:
    averaged = {name: torch.full_like(tensor, 2.0) for name, tensor in small().items()}
    found = parse({"state_dict": small(), "state_dict_ema": averaged}, "file.pth")
    assert found.container == "state_dict_ema"
    assert found.trunk["pos_embed"].eq(2.0).all()


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "image_encoder.trunk.", "model.backbone.body."])
def test_the_trunk_may_stand_behind_any_prefix(prefix: str) -> None:
    state = {prefix + name: tensor for name, tensor in small().items()} | {"rpn.conv.weight": torch.zeros(1)}
    found = contents(state)
    assert found.prefix == prefix
    assert set(found.trunk) == set(small())
    assert set(found.others) == {"rpn.conv.weight"}


def test_what_no_hiera_has_is_kept_apart() -> None:
    found = contents(small() | {"blocks.0.attn.rel_pos": torch.zeros(1), "surprise": torch.zeros(1)})
    assert found.unknown == ("blocks.0.attn.rel_pos", "surprise")


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (resnet18, r"is no Hiera: its 122 tensors are named conv1\.weight, bn1\.weight, bn1\.bias"),
        (lambda: timm.create_model("vit_tiny_patch16_224"), "is no Hiera: its 152 tensors are named cls_token"),
        (lambda: timm.create_model("swin_tiny_patch4_window7_224"), "is no Hiera"),
        (
            lambda: timm.create_model("vit_base_patch16_gap_224", depth=1),
            r"is no Hiera: its first convolution has kernel \(16, 16\)",
        ),
        (lambda: timm.create_model("mvitv2_tiny"), "is no Hiera"),
    ],
    ids=["resnet", "vit", "swin", "vit without class token", "mvit"],
)
def test_another_network_is_refused(build: Callable[[], nn.Module], says: str) -> None:
    with pytest.raises(InputError, match=rf"file\.pth {says}") as caught:
        contents(build().state_dict())
    assert "\n" not in str(caught.value)


def test_two_trunks_in_a_file_are_refused() -> None:
    state = {f"{who}.{name}": tensor for who in ("teacher", "student") for name, tensor in small().items()}
    with pytest.raises(InputError, match=r"holds 2 trunks, under 'teacher\.', 'student\.'"):
        contents(state)


@pytest.mark.parametrize(
    ("loaded", "says"),
    [
        ({}, "holds no tensors"),
        ({"model": {}}, "entry 'model' is a dict, not a named tensor"),
        ({"epoch": 3}, "entry 'epoch' is a int"),
        ({"model": {"pos_embed": "text"}}, "entry 'pos_embed' is a str"),
        ({"model": {7: torch.ones(1)}}, "entry 7 is a Tensor"),
    ],
)
def test_what_is_no_state_dict_is_named(loaded: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse(loaded, "file.pth")
