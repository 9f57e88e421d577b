"""Weight files as the other packages write them: read here, the stage maps are the ones that package computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import hiera
import pytest
import timm
import torch
import transformers
from compare import assert_maps_equal, randomise, uninitialised
from safetensors.torch import save_file
from torch import Tensor, nn

from hiera_det import build_hiera, build_hieradet, hiera_small_abswin
from hiera_det.modeling.hiera import Hiera
from hiera_det.modeling.variants import HIERADET_VARIANTS, VARIANTS
from hiera_det.weights.load import fit, load_weights, read_contents

SIZES = ("tiny", "base", "base_plus", "large")
DET_SIZES = tuple(HIERADET_VARIANTS)


def random_model(build: Callable[[], nn.Module]) -> nn.Module:
    with uninitialised():
        model = build()
    randomise(model)
    return model.eval()


def ours(size: str, weights: Path, build: Callable[..., Hiera] = build_hiera, **fields: object) -> Hiera:
    with uninitialised():
        return build(size, weights=str(weights), **fields).eval()


def channels_first(maps: Sequence[Tensor]) -> list[Tensor]:
    return [map_.movedim(-1, 1) for map_ in maps]


def hf_config(size: str, **fields: object) -> transformers.HieraConfig:
    variant = VARIANTS[size]
    heads = [variant.num_heads << stage for stage in range(4)]
    return transformers.HieraConfig(embed_dim=variant.embed_dim, depths=list(variant.depths), num_heads=heads, **fields)


def hf_mae_config(size: str) -> transformers.HieraConfig:
    return hf_config(size, num_query_pool=2, decoder_hidden_size=512, decoder_depth=8, decoder_num_heads=16)


def hf_maps(model: nn.Module, images: Tensor) -> list[Tensor]:
    return channels_first(model(images, output_hidden_states=True).reshaped_hidden_states[1:])


def timm_maps(model: nn.Module, images: Tensor) -> list[Tensor]:
    return model.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")


# ------------------------------------------------------------------------------------------------ the authors' Hiera


@pytest.mark.parametrize("size", SIZES)
@torch.inference_mode()
def test_the_authors_classifier(size: str, tmp_path: Path) -> None:
    theirs = random_model(getattr(hiera, f"hiera_{size}_224"))
    torch.save({"model_state": theirs.state_dict()}, tmp_path / "hiera.pth")
    images = torch.randn(1, 3, 224, 224)
    expected = theirs(images, return_intermediates=True)[1]
    assert_maps_equal(ours(size, tmp_path / "hiera.pth")(images), channels_first(expected))


@torch.inference_mode()
def test_the_authors_hub_folder_of_another_size(tmp_path: Path) -> None:
    theirs = random_model(lambda: hiera.hiera_tiny_224(input_size=(256, 384)))
    theirs.save_pretrained(str(tmp_path))
    images = torch.randn(1, 3, 256, 384)
    expected = theirs(images, return_intermediates=True)[1]
    assert_maps_equal(ours("tiny", tmp_path, pretrain_size=(256, 384))(images), channels_first(expected))


@pytest.mark.parametrize("size", ["tiny", "base_plus"])
@torch.inference_mode()
def test_the_authors_mae(size: str, tmp_path: Path) -> None:
    pretrained = random_model(getattr(hiera, f"mae_hiera_{size}_224"))
    torch.save({"model_state": pretrained.state_dict()}, tmp_path / "mae.pth")
    # The encoder as the authors fine-tune it: its decoder stops pooling one stage early.
    theirs = random_model(getattr(hiera, f"hiera_{size}_224"))
    theirs.load_state_dict(pretrained.state_dict(), strict=False)
    images = torch.randn(1, 3, 224, 224)
    expected = theirs(images, return_intermediates=True)[1]
    assert_maps_equal(ours(size, tmp_path / "mae.pth")(images), channels_first(expected))


@pytest.mark.parametrize("kind", ["classifier", "mae"])
@torch.inference_mode()
def test_the_authors_video_model(kind: str, tmp_path: Path) -> None:
    theirs = random_model(lambda: hiera.hiera_base_16x224())
    saved = theirs if kind == "classifier" else random_model(lambda: hiera.mae_hiera_base_16x224())
    torch.save({"model_state": saved.state_dict()}, tmp_path / "video.pth")
    theirs.load_state_dict(saved.state_dict(), strict=False)
    clips = torch.randn(1, 3, 16, 224, 224)
    expected = theirs(clips, return_intermediates=True)[1]
    assert_maps_equal(ours("base", tmp_path / "video.pth", frames=16)(clips), channels_first(expected))


# ----------------------------------------------------------------------------------------------- transformers' Hiera


@pytest.mark.parametrize("size", SIZES)
@torch.inference_mode()
def test_transformers_hiera_model(size: str, tmp_path: Path) -> None:
    theirs = random_model(lambda: transformers.HieraModel(hf_config(size)))
    theirs.save_pretrained(tmp_path)
    images = torch.randn(1, 3, 224, 224)
    assert_maps_equal(ours(size, tmp_path)(images), hf_maps(theirs, images))


@torch.inference_mode()
def test_transformers_hiera_model_of_another_size_in_shards(tmp_path: Path) -> None:
    theirs = random_model(lambda: transformers.HieraModel(hf_config("tiny", image_size=[256, 384])))
    theirs.save_pretrained(tmp_path, max_shard_size="30MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    images = torch.randn(1, 3, 256, 384)
    assert_maps_equal(ours("tiny", tmp_path, pretrain_size=(256, 384))(images), hf_maps(theirs, images))


@pytest.mark.parametrize("size", ["tiny", "base_plus"])
@torch.inference_mode()
def test_transformers_pretraining_model(size: str, tmp_path: Path) -> None:
    pretrained = random_model(lambda: transformers.HieraForPreTraining(hf_mae_config(size)))
    pretrained.save_pretrained(tmp_path)
    theirs = random_model(lambda: transformers.HieraModel(hf_config(size)))
    theirs.load_state_dict(pretrained.hiera.state_dict(), strict=False)
    images = torch.randn(1, 3, 224, 224)
    assert_maps_equal(ours(size, tmp_path)(images), hf_maps(theirs, images))


@torch.inference_mode()
def test_transformers_classifier_in_a_pytorch_file(tmp_path: Path) -> None:
    theirs = random_model(lambda: transformers.HieraForImageClassification(hf_config("tiny")))
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    images = torch.randn(1, 3, 224, 224)
    assert_maps_equal(ours("tiny", tmp_path)(images), hf_maps(theirs, images))


@torch.inference_mode()
def test_transformers_backbone_file_is_right_though_its_own_maps_are_scrambled(tmp_path: Path) -> None:
    names = [f"stage{stage}" for stage in range(1, 5)]
    theirs = random_model(lambda: transformers.HieraBackbone(hf_config("tiny", out_features=names)))
    theirs.save_pretrained(tmp_path)
    images = torch.randn(1, 3, 224, 224)
    model = random_model(lambda: transformers.HieraModel(hf_config("tiny")))
    model.load_state_dict(theirs.state_dict(), strict=False)
    maps = ours("tiny", tmp_path)(images)
    assert_maps_equal(maps, hf_maps(model, images))  # the same tensors in HieraModel
    for name, scrambled in zip(names, theirs(images).feature_maps, strict=True):
        norm = theirs.hidden_states_norms[name]
        expected = norm(maps[name].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        wrong = ((scrambled - expected).abs() > 1e-3).float().mean()
        assert wrong > 0.5, f"{name}: transformers' HieraBackbone has been mended, and the README says it is not"


# ------------------------------------------------------------------------------------------------------ timm's Hiera


@pytest.mark.parametrize("size", SIZES)
@torch.inference_mode()
def test_timm_hiera(size: str, tmp_path: Path) -> None:
    theirs = random_model(lambda: timm.create_model(f"hiera_{size}_224"))
    timm.models.save_for_hf(theirs, str(tmp_path))
    images = torch.randn(1, 3, 224, 224)
    assert_maps_equal(ours(size, tmp_path)(images), timm_maps(theirs, images))


@torch.inference_mode()
def test_timm_hiera_of_another_size(tmp_path: Path) -> None:
    theirs = random_model(lambda: timm.create_model("hiera_tiny_224", img_size=(256, 384), num_classes=0))
    torch.save({"state_dict": theirs.state_dict(), "epoch": 3, "arch": "hiera_tiny_224"}, tmp_path / "model_best.pth")
    images = torch.randn(1, 3, 256, 384)
    maps = ours("tiny", tmp_path / "model_best.pth", pretrain_size=(256, 384))(images)
    assert_maps_equal(maps, timm_maps(theirs, images))


@pytest.mark.parametrize("side", [256, 320])
@torch.inference_mode()
def test_timm_absolute_window_hiera(side: int, tmp_path: Path) -> None:
    theirs = random_model(lambda: timm.create_model("hiera_small_abswin_256", img_size=(side, side)))
    timm.models.save_for_hf(theirs, str(tmp_path))
    images = torch.randn(1, 3, side, side)
    with uninitialised():
        trunk = hiera_small_abswin(weights=str(tmp_path)).eval()
    assert_maps_equal(trunk(images), timm_maps(theirs, images))


# ------------------------------------------------------------------------------------------------- SAM 2's HieraDet


@pytest.mark.parametrize("size", DET_SIZES)
@torch.inference_mode()
def test_timm_sam2_trunk(size: str, tmp_path: Path) -> None:
    theirs = random_model(lambda: timm.create_model(f"sam2_hiera_{size}"))
    timm.models.save_for_hf(theirs, str(tmp_path))
    trunk = ours(size, tmp_path, build_hieradet)
    for height, width in ((224, 224), (256, 416)):
        images = torch.randn(1, 3, height, width)
        assert_maps_equal(trunk(images), timm_maps(theirs, images))


@torch.inference_mode()
def test_timm_hieradet_with_scaled_branches(tmp_path: Path) -> None:
    theirs = random_model(lambda: timm.create_model("hieradet_small"))
    timm.models.save_for_hf(theirs, str(tmp_path))
    images = torch.randn(1, 3, 256, 256)
    trunk = ours("small", tmp_path, build_hieradet, layer_scale=True, window_size=(8, 4, 16, 8))
    assert_maps_equal(trunk(images), timm_maps(theirs, images))


def test_sam2_gradients_equal_timms(tmp_path: Path) -> None:
    theirs = random_model(lambda: timm.create_model("sam2_hiera_tiny")).double()
    torch.save(theirs.state_dict(), tmp_path / "sam2.pth")
    trunk = ours("tiny", tmp_path / "sam2.pth", build_hieradet).double()
    trunk.load_state_dict(fit(read_contents(str(tmp_path / "sam2.pth")), trunk)[0])
    images = torch.randn(1, 3, 256, 320, dtype=torch.float64)
    expected = timm_maps(theirs, images)
    weights = [torch.randn_like(map_) for map_ in expected]
    sum((map_ * weight).sum() for map_, weight in zip(expected, weights, strict=True)).backward()
    sum((map_ * weight).sum() for map_, weight in zip(trunk(images).values(), weights, strict=True)).backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in trunk.named_parameters():
        torch.testing.assert_close(
            parameter.grad, gradients[name], rtol=0, atol=1e-8 * gradients[name].abs().max().item(), msg=name
        )


def sam2_hf_config(size: str) -> transformers.Sam2HieraDetConfig:
    variant, window = VARIANTS[size], HIERADET_VARIANTS[size]
    return transformers.Sam2HieraDetConfig(
        hidden_size=variant.embed_dim,
        num_attention_heads=variant.num_heads,
        blocks_per_stage=list(variant.depths),
        embed_dim_per_stage=[variant.embed_dim << stage for stage in range(4)],
        num_attention_heads_per_stage=[variant.num_heads << stage for stage in range(4)],
        window_size_per_stage=list(window.window_size),
        global_attention_blocks=list(window.global_blocks),
        window_positional_embedding_background_size=list(window.pos_grid),
    )


@pytest.mark.parametrize("size", DET_SIZES)
@torch.inference_mode()
def test_transformers_sam2_trunk(size: str, tmp_path: Path) -> None:
    theirs = random_model(lambda: transformers.Sam2HieraDetModel(sam2_hf_config(size)))
    theirs.save_pretrained(tmp_path)
    trunk = ours(size, tmp_path, build_hieradet)
    for height, width in ((224, 224), (256, 416)):
        images = torch.randn(1, 3, height, width)
        expected = theirs(images).intermediate_hidden_states
        assert_maps_equal(trunk(images), channels_first(expected))


def sam2_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """SAM 2's names for timm's tensors, as in its published files."""
    return {
        f"image_encoder.trunk.{name.replace('mlp.fc1', 'mlp.layers.0').replace('mlp.fc2', 'mlp.layers.1')}": tensor
        for name, tensor in state.items()
    }


@torch.inference_mode()
def test_a_whole_sam2_file(tmp_path: Path) -> None:
    theirs = random_model(lambda: timm.create_model("sam2_hiera_tiny", num_classes=0))
    trunk_names = [name for name in theirs.state_dict() if not name.startswith("head.")]
    state = sam2_names({name: theirs.state_dict()[name] for name in trunk_names})
    around = {"image_encoder.neck.convs.0.conv.weight": torch.zeros(256, 768, 1, 1), "maskmem_tpos_enc": torch.zeros(7)}
    torch.save({"model": state | around}, tmp_path / "sam2.1_hiera_tiny.pt")
    with uninitialised():
        trunk = build_hieradet("tiny").eval()
    report = load_weights(trunk, str(tmp_path / "sam2.1_hiera_tiny.pt"))
    assert set(report.dropped) == set(around)
    images = torch.randn(1, 3, 224, 320)
    assert_maps_equal(trunk(images), timm_maps(theirs, images))


@torch.inference_mode()
def test_a_whole_transformers_sam2_model(tmp_path: Path) -> None:
    vision = transformers.Sam2VisionConfig(backbone_config=sam2_hf_config("tiny"))
    theirs = random_model(lambda: transformers.Sam2Model(transformers.Sam2Config(vision_config=vision)))
    theirs.save_pretrained(tmp_path)
    images = torch.randn(1, 3, 256, 256)
    expected = theirs.vision_encoder.backbone(images).intermediate_hidden_states
    assert_maps_equal(ours("tiny", tmp_path, build_hieradet)(images), channels_first(expected))


# ---------------------------------------------------------------------------------------------------------- ourselves


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_our_own_trunk(suffix: str, tmp_path: Path) -> None:
    theirs = random_model(lambda: build_hieradet("tiny"))
    path = tmp_path / f"trunk{suffix}"
    save_file(theirs.state_dict(), path) if suffix == ".safetensors" else torch.save(theirs.state_dict(), path)
    loaded = ours("tiny", path, build_hieradet)
    torch.testing.assert_close(dict(loaded.state_dict()), dict(theirs.state_dict()), rtol=0, atol=0)
