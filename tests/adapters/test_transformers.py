"""The trunk as a backbone of transformers', under its heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from hiera_det import Hiera, load_weights
from hiera_det.adapters.transformers import HieraDetBackbone, HieraDetConfig, register

TRUNK = {"embed_dim": 16, "depths": [1, 1, 2, 1]}
FOUR = ["stage1", "stage2", "stage3", "stage4"]
#: Sizes that the heads have in common.
NARROW = {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
NARROW |= {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 5, "num_labels": 2}


@pytest.fixture(autouse=True)
def _registered() -> None:
    register()


def config(*stages: str, **fields: Any) -> HieraDetConfig:
    return HieraDetConfig(size="tiny", trunk=TRUNK, out_features=[*stages], **fields)


def mask2former() -> torch.nn.Module:
    narrow = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32}
    narrow |= {"encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2, "dim_feedforward": 32}
    narrow |= {"num_queries": 5, "num_labels": 2, "train_num_points": 64}
    made = transformers.Mask2FormerConfig(backbone_config=config(*FOUR), **narrow)
    return transformers.Mask2FormerForUniversalSegmentation(made)


def upernet() -> torch.nn.Module:
    narrow = {"hidden_size": 16, "num_labels": 2, "auxiliary_in_channels": 64, "auxiliary_channels": 8}
    made = transformers.UperNetConfig(backbone_config=config(*FOUR), **narrow)
    return transformers.UperNetForSemanticSegmentation(made)


def deformable_detr() -> torch.nn.Module:
    made = transformers.DeformableDetrConfig(backbone_config=config(*FOUR[1:]), **NARROW)
    return transformers.DeformableDetrForObjectDetection(made)


def rt_detr() -> torch.nn.Module:
    narrow = NARROW | {"encoder_hidden_dim": 32, "decoder_in_channels": [32] * 3, "hidden_expansion": 0.5}
    narrow |= {"encoder_in_channels": [32, 64, 128], "num_denoising": 0, "decoder_layers": 1}
    made = transformers.RTDetrConfig(backbone_config=config(*FOUR[1:]), **narrow)
    return transformers.RTDetrForObjectDetection(made)


BOXES = {"labels": [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.3, 0.3]])}] * 2}
HEADS = [
    (mask2former, {"mask_labels": [torch.ones(1, 64, 96)] * 2, "class_labels": [torch.tensor([1])] * 2}),
    (upernet, {"labels": torch.ones(2, 64, 96, dtype=torch.long)}),
    (deformable_detr, BOXES),
    (rt_detr, BOXES),
]


@pytest.mark.parametrize(("build", "labels"), HEADS, ids=lambda value: getattr(value, "__name__", ""))
def test_heads_learn_on_it(build: Any, labels: dict[str, Any]) -> None:
    model, images = build().train(), torch.randn(2, 3, 64, 96)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(10):
        loss = model(pixel_values=images, **labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])
    assert not [name for name, p in model.named_parameters() if "trunk" in name and p.grad is None]


def test_maps_are_the_trunks_own() -> None:
    backbone = transformers.AutoBackbone.from_config(config("stage2", "stage4")).eval()
    trunk = Hiera(backbone.trunk.options).eval()
    trunk.load_state_dict(backbone.trunk.state_dict())
    images = torch.randn(2, 3, 64, 96)
    output = backbone(images)
    assert all(torch.equal(*pair) for pair in zip(output.feature_maps, trunk(images).values(), strict=True))
    assert backbone.channels == [32, 128]
    assert torch.equal(backbone(images, return_dict=False)[0][1], output.feature_maps[1])


def test_images_of_any_size_give_maps_as_a_convolutional_backbone() -> None:
    backbone = HieraDetBackbone(config("stem", *FOUR)).eval()
    output = backbone(torch.randn(1, 3, 60, 90), output_hidden_states=True, output_attentions=True)
    shapes = [tuple(found.shape[1:]) for found in output.feature_maps]
    assert shapes == [(16, 15, 23), (16, 15, 23), (32, 8, 12), (64, 4, 6), (128, 2, 3)]
    assert all(torch.equal(*pair) for pair in zip(output.feature_maps, output.hidden_states, strict=True))
    assert len(output.attentions) == 5
    assert backbone(torch.randn(1, 3, 60, 90)).hidden_states is None


def test_weights_and_config_outlast_saving(tmp_path: Path) -> None:
    backbone = HieraDetBackbone(config(*FOUR, windowed=False)).eval()
    backbone.save_pretrained(tmp_path / "backbone")
    again = HieraDetBackbone.from_pretrained(tmp_path / "backbone").eval()
    assert again.trunk.options == backbone.trunk.options
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(images).feature_maps[3], backbone(images).feature_maps[3])
    assert isinstance(transformers.AutoConfig.from_pretrained(tmp_path / "backbone"), HieraDetConfig)
    model = mask2former().eval()
    model.save_pretrained(tmp_path / "mask2former")
    same = type(model).from_pretrained(tmp_path / "mask2former").eval()
    assert torch.equal(same(images).masks_queries_logits, model(images).masks_queries_logits)


def test_published_weights_go_into_the_trunk(tmp_path: Path) -> None:
    published = Hiera(**{**TRUNK, "num_heads": 1})
    torch.save(published.state_dict(), tmp_path / "published.pth")
    backbone = HieraDetBackbone(config(*FOUR))
    report = load_weights(backbone.trunk, tmp_path / "published.pth")
    assert not report.initialised
    assert torch.equal(backbone.trunk.pos_embed, published.pos_embed)


def test_new_weights_are_the_trunks_and_blocks_are_recomputed_on_request() -> None:
    backbone = HieraDetBackbone(config("stage4"))
    assert backbone.trunk.blocks[0].norm1.bias.mean().item() == pytest.approx(0.02)  # transformers would have 0
    assert backbone.trunk.pos_embed.std().item() == pytest.approx(0.02, rel=0.1)
    backbone.gradient_checkpointing_enable()
    assert backbone.trunk.options.use_checkpoint is True
    backbone.gradient_checkpointing_disable()
    assert backbone.trunk.options.use_checkpoint is False
