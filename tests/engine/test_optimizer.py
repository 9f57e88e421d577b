"""Which parameters decay, and how fast each layer learns."""

from __future__ import annotations

import pytest
import torch

from hiera_det.engine.optimizer import build_adamw, parameter_groups, set_lr
from hiera_det.modeling.hiera import Hiera
from hiera_det.zoo import hiera_classifier, hiera_mae

TINY = {"embed_dim": 16, "num_heads": 1, "depths": (1, 2, 1, 1), "pretrain_size": 64}
DECODER = {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 2}


def build(kind: str) -> Hiera:
    return hiera_mae("tiny", **TINY, **DECODER) if kind == "mae" else hiera_classifier("tiny", 3, **TINY)


@pytest.mark.parametrize("kind", ["mae", "classifier"])
@pytest.mark.parametrize("layer_decay", [1.0, 0.65])
def test_every_parameter_is_in_one_group(kind: str, layer_decay: float) -> None:
    model = build(kind)
    grouped = [id(p) for group in parameter_groups(model, 0.05, layer_decay) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("kind", ["mae", "classifier"])
def test_norms_biases_and_positions_do_not_decay_and_all_else_does(kind: str) -> None:
    model = build(kind)
    decay = {id(p): group["weight_decay"] for group in parameter_groups(model, 0.05, 0.65) for p in group["params"]}
    free = {name for name, p in model.named_parameters() if decay[id(p)] == 0}
    for name, _ in model.named_parameters():
        spared = name.endswith(".bias") or "norm" in name or "pos_embed" in name
        assert (name in free) == spared, name
    assert set(decay.values()) == {0.0, 0.05}


def test_layers_learn_the_slower_the_earlier_they_are() -> None:
    model = build("classifier")
    optimizer = build_adamw(model, (0.9, 0.999), 0.05, 0.5)
    set_lr(optimizer, 0.8)
    lr = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    by_name = {name: lr[id(p)] for name, p in model.named_parameters()}
    assert by_name["head.projection.weight"] == by_name["norm.bias"] == by_name["blocks.4.attn.qkv.weight"] == 0.8
    assert by_name["blocks.3.norm1.weight"] == 0.4
    assert by_name["blocks.0.mlp.fc1.weight"] == 0.8 / 2**4
    assert by_name["pos_embed"] == by_name["patch_embed.proj.weight"] == 0.8 / 2**5


def test_a_rate_of_zero_until_set() -> None:
    model = build("classifier")
    before = model.head.projection.bias.detach().clone()
    optimizer = build_adamw(model, (0.9, 0.95), 0.05, 1.0)
    model(torch.randn(1, 3, 64, 64)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(model.head.projection.bias.detach(), before, atol=0, rtol=0)
    assert len(optimizer.param_groups) == 2
