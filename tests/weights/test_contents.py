"""A file is recognised by the names of its tensors."""

from __future__ import annotations

import re
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


def hf_state() -> dict[str, Tensor]:
    return transformers.HieraModel(transformers.HieraConfig(**HF_SMALL)).state_dict()


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


@pytest.mark.parametrize("key", ["model_state", "model", "state_dict", "model_state_dict"])
def test_the_tensors_may_lie_under_a_key(key: str) -> None:
    found = parse({key: small(), "epoch": 3, "optimizer": {"lr": 0.1}}, "file.pth")
    assert found.container == key
    assert set(found.trunk) == set(small())


def test_averaged_weights_are_taken_before_raw_ones() -> None:
    averaged = {name: torch.full_like(tensor, 2.0) for name, tensor in small().items()}
    found = parse({"state_dict": small(), "state_dict_ema": averaged}, "file.pth")
    assert found.container == "state_dict_ema"
    assert found.trunk["pos_embed"].eq(2.0).all()


@pytest.mark.parametrize("prefix", ["backbone.", "image_encoder.trunk.", "model.backbone.body."])
def test_the_trunk_may_stand_behind_any_prefix(prefix: str) -> None:
    state = {prefix + name: tensor for name, tensor in small().items()} | {"rpn.conv.weight": torch.zeros(1)}
    found = contents(state)
    assert found.prefix == prefix
    assert set(found.trunk) == set(small())
    assert set(found.others) == {"rpn.conv.weight"}


WRAPPED = {
    "data parallel": lambda name: f"module.{name}",
    "compiled": lambda name: f"_orig_mod.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "blocks compiled one by one": lambda name: re.sub(r"^(blocks\.\d+\.)", r"\1_orig_mod.", name),
    "layers compiled one by one": lambda name: name.replace("mlp.", "mlp._orig_mod."),
    "FSDP": lambda name: re.sub(r"^(blocks\.\d+\.)", r"\1_fsdp_wrapped_module._checkpoint_wrapped_module.", name),
    "a detector's trunk compiled": lambda name: f"module.backbone.trunk._orig_mod.{name}",
}


@pytest.mark.parametrize("how", WRAPPED)
def test_what_wrappers_put_into_names_is_taken_out(how: str) -> None:
    state = small()
    found = contents({WRAPPED[how](name): tensor for name, tensor in state.items()})
    assert found.prefix == ("backbone.trunk." if "detector" in how else "")
    assert found.trunk.keys() == state.keys()
    assert all(found.trunk[name] is tensor for name, tensor in state.items())


@pytest.mark.parametrize("key", ["", "model", "model_ema"])
def test_an_averaged_model_is_the_model(key: str) -> None:
    state = {"n_averaged": torch.tensor(5), **{f"module.{name}": tensor for name, tensor in small().items()}}
    found = contents({key: state} if key else state)
    assert found.trunk.keys() == small().keys()
    assert (found.others, found.unknown) == ({}, ())


def test_a_wrapped_and_a_plain_model_in_one_file_are_refused() -> None:
    with pytest.raises(InputError, match=r"names differ only in module\. or _orig_mod\.: save one model alone"):
        contents(small() | {f"_orig_mod.{name}": tensor for name, tensor in small().items()})


def test_a_tensor_under_two_names_is_refused() -> None:
    state = {f"hiera.{name}": tensor for name, tensor in hf_state().items()}
    with pytest.raises(InputError, match=r"has norm\.weight twice, once as pooler\.layernorm\.weight"):
        contents(state | {"pooler.layernorm.weight": torch.zeros(128)})


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.float8_e4m3fn, torch.complex64])
def test_numbers_that_would_be_cast_are_refused(dtype: torch.dtype) -> None:
    state = small()
    state["blocks.1.mlp.fc1.weight"] = state["blocks.1.mlp.fc1.weight"].to(dtype)
    word = str(dtype).removeprefix("torch.")
    with pytest.raises(
        InputError, match=rf"tensor blocks\.1\.mlp\.fc1\.weight is of {word}, and the model's are floating-point"
    ):
        contents(state)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("pos_embed", ()),
        ("pos_embed", (1, 0, 16)),
        ("pos_embed", (2, 3136, 16)),
        ("head.projection.weight", (10,)),
        ("blocks.0.norm1.weight", (0,)),
    ],
)
def test_shapes_that_no_hiera_has_are_named(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"file\.pth is no Hiera: its "):
        contents(small() | {name: torch.zeros(shape)})


@pytest.mark.parametrize(
    "name", ["encoder.stages.999999999.layers.0.a", f"encoder.stages.{'9' * 5000}.layers.0.a", "blocks.00.norm1.weight"]
)
def test_numbers_in_names_are_of_ordinary_size(name: str) -> None:
    state = hf_state() if name.startswith("encoder") else small()
    assert len(contents(state | {name: torch.zeros(1)}).unknown) == 1


def test_the_grid_of_the_positions_is_read_where_it_is_recorded() -> None:
    assert contents(small(), config={"pretrain_size": [56, 112]}).grid == (14, 28)
    assert contents(small(), config={"pretrain_size": 224}).grid == (56, 56)
    for other in (None, "x", [1, 2, 3], -4, 10**9, [True, 4]):
        assert contents(small(), config={"pretrain_size": other}).grid is None


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
