"""The trunk in timm's convention, by timm's own functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

from hiera_det import Hiera, InputError, hiera_tiny
from hiera_det.adapters.timm import register

SMALL = {"embed_dim": 16, "depths": (1, 1, 2, 1)}


@pytest.fixture(autouse=True)
def _registered() -> None:
    register()


def create(**fields: Any) -> Any:
    return timm.create_model("hiera_det_tiny", **(SMALL | fields)).eval()


def test_the_sizes_are_in_the_registry_with_their_weights() -> None:
    assert register() == register()
    assert timm.list_models("hiera_det_*") == sorted(register())
    assert "hiera_det_base.mae" in timm.list_pretrained("hiera_det_*")
    cfg = timm.data.resolve_model_data_config(create())
    trunk = hiera_tiny(**SMALL)
    assert torch.tensor(cfg["mean"]) == pytest.approx(torch.tensor(trunk.pixel_mean) / 255)
    assert torch.tensor(cfg["std"]) == pytest.approx(torch.tensor(trunk.pixel_std) / 255)


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (0, 2), (1,), (-3, -2), 2])
def test_features_are_the_trunks_own_maps(out_indices: Any) -> None:
    features = create(features_only=True, out_indices=out_indices)
    trunk = Hiera(features.model.options)
    missing, unexpected = trunk.load_state_dict(features.model.state_dict(), strict=False)
    assert not missing
    assert not unexpected
    images = torch.randn(2, 3, 64, 96)
    expected, found = trunk.eval()(images), features(images)
    assert all(torch.equal(one, other) for one, other in zip(found, expected.values(), strict=True))
    info = features.feature_info
    assert info.channels() == [map_.shape[1] for map_ in found]
    assert info.reduction() == [64 // map_.shape[2] for map_ in found]
    modules = dict(features.model.named_modules())
    assert all(name in modules for name in info.module_name())


def test_every_parameter_of_features_has_a_gradient() -> None:
    features = create(features_only=True, out_indices=(1, 2)).train()
    sum(map_.square().sum() for map_ in features(torch.randn(1, 3, 64, 64))).backward()
    assert not [name for name, parameter in features.named_parameters() if parameter.grad is None]


def test_intermediates_in_both_formats_and_with_the_tokens() -> None:
    model, images = create(), torch.randn(1, 3, 64, 96)
    tokens, maps = model.forward_intermediates(images)
    assert [map_.shape[1] for map_ in maps] == [16, 32, 64, 128]
    assert torch.equal(tokens, model.forward_features(images))
    assert torch.equal(tokens.transpose(1, 2).view(1, 128, 2, 3), maps[-1])
    (last,) = model.forward_intermediates(images, indices=[-1], output_fmt="NHWC", intermediates_only=True)
    assert torch.equal(last, maps[-1].permute(0, 2, 3, 1))
    with pytest.raises(InputError, match="takes norm=False"):
        model.forward_intermediates(images, norm=True)


def test_weights_of_timms_own_hiera_give_its_logits(tmp_path: Path) -> None:
    theirs = timm.create_model("hiera_tiny_224", embed_dim=16, stages=(1, 1, 2, 1), num_classes=1000).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    overlay = {"file": str(tmp_path / "theirs.pth")}
    ours = create(pretrained=True, pretrained_cfg_overlay=overlay)
    images = torch.randn(2, 3, 224, 224)
    torch.testing.assert_close(ours(images), theirs(images), atol=1e-5, rtol=1e-4)
    features = create(pretrained=True, pretrained_cfg_overlay=overlay, features_only=True)
    expected = theirs.forward_intermediates(images, intermediates_only=True)
    for one, other in zip(features(images), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    new = create(pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3)
    assert new(images).shape == (2, 3)
    assert torch.equal(new.norm.weight, theirs.head.norm.weight)


@pytest.mark.parametrize("kind", ["classifier", "trunk"])
def test_timms_layer_decay_falls_from_the_end_to_the_stem(kind: str) -> None:
    model = create(num_classes=2) if kind == "classifier" else hiera_tiny(**SMALL)
    groups = param_groups_layer_decay(model, 0.1, model.no_weight_decay(), layer_decay=0.5)
    scales = {p: group["lr_scale"] for group in groups for p in group["params"]}
    decays = {p: group["weight_decay"] for group in groups for p in group["params"]}
    layers = [model.pos_embed, *(block.attn.qkv.weight for block in model.blocks)]
    layers += [model.get_classifier().weight] if kind == "classifier" else []
    assert [scales[layer] for layer in layers] == [0.5**power for power in range(len(layers) - 1, -1, -1)]
    assert scales[model.patch_embed.proj.weight] == scales[model.pos_embed]
    assert decays[model.pos_embed] == 0
    assert decays[model.blocks[0].attn.qkv.weight] == 0.1


def test_checkpointing_gives_the_same_gradients() -> None:
    model, images = create(num_classes=2), torch.randn(1, 3, 64, 64)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        assert model.options.checkpoint_stages == (("stage1", "stage2", "stage3", "stage4") if enable else ())
        model.zero_grad()
        model(images).sum().backward()
        gradients.append(model.pos_embed.grad.clone())
    assert torch.equal(*gradients)


def test_the_head_is_exchanged_and_left_out() -> None:
    model, images = create(num_classes=5, in_chans=1, drop_rate=0.1), torch.randn(1, 1, 64, 64)
    assert model(images).shape == (1, model.num_classes) == (1, 5)
    model.reset_classifier(7)
    assert model.get_classifier().out_features == 7
    model.reset_classifier(0)
    assert torch.equal(model(images), model.forward_head(model.forward_features(images), pre_logits=True))
    assert model(images).shape == (1, model.num_features)
    with pytest.raises(InputError, match="global_pool 'max'"):
        model.reset_classifier(2, "max")
