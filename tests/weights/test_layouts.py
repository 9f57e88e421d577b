"""Names go from one package to another and come back."""

from __future__ import annotations

import pytest

from hiera_det.weights.layouts import HF, OFFICIAL, SAM2, SAM2_HF, TIMM, TIMM_ABSWIN, is_trunk_name

DEPTHS = (2, 3, 16, 3)
BLOCK = ("norm1.weight", "attn.qkv.bias", "attn.proj.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc2.bias")
TRUNK = ("patch_embed.proj.weight", "pos_embed", "blocks.2.proj.weight", *(f"blocks.20.{part}" for part in BLOCK))
CLASSIFIER = ("norm.weight", "head.projection.bias")
DECODER = (
    "encoder_norm.weight",
    "mask_token",
    "decoder_pos_embed",
    "decoder_embed.weight",
    "decoder_norm.bias",
    "decoder_pred.weight",
    "multi_scale_fusion_heads.1.weight",
    *(f"decoder_blocks.7.{part}" for part in BLOCK),
)


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        (OFFICIAL, (*TRUNK, *CLASSIFIER, *DECODER, "pos_embed_spatial", "pos_embed_temporal")),
        (HF, (*TRUNK, *CLASSIFIER, *DECODER)),
        (TIMM, (*TRUNK, *CLASSIFIER, "blocks.0.ls1.gamma", "pos_embed_window")),
        (TIMM_ABSWIN, (*TRUNK, *CLASSIFIER, "blocks.0.ls2.gamma", "pos_embed_window")),
        (SAM2, (*TRUNK, "pos_embed_window")),
        (SAM2_HF, (*TRUNK, "pos_embed_window")),
    ],
    ids=lambda value: getattr(value, "title", ""),
)
def test_names_come_back(layout: object, names: tuple[str, ...]) -> None:
    theirs = [layout.from_ours(name, DEPTHS) for name in names]
    assert len(set(theirs)) == len(names)
    assert [layout.to_ours(name, DEPTHS) for name in theirs] == list(names)


def test_transformers_counts_blocks_inside_their_stage() -> None:
    assert HF.from_ours("blocks.4.norm1.weight", DEPTHS) == "encoder.stages.1.layers.2.layernorm_before.weight"
    assert HF.to_ours("encoder.stages.3.layers.0.proj.bias", DEPTHS) == "blocks.21.proj.bias"


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        (OFFICIAL, "blocks.0.attn.rel_pos_h"),
        (OFFICIAL, "blocks.x.norm1.weight"),
        (OFFICIAL, "head.fc.weight"),
        (OFFICIAL, "cls_token"),
        (HF, "norm.weight"),
        (HF, "encoder.stages.0.layers.0.norm1.weight"),
        (TIMM, "norm.weight"),
        (SAM2, "blocks.0.mlp.fc1.weight"),
    ],
)
def test_what_a_layout_does_not_have_gets_no_name(layout: object, name: str) -> None:
    assert layout.to_ours(name, DEPTHS) is None


def test_trunk_and_heads_are_told_apart() -> None:
    assert all(is_trunk_name(name) for name in (*TRUNK, "pos_embed_window", "pos_embed_temporal"))
    assert not any(is_trunk_name(name) for name in (*CLASSIFIER, *DECODER))
