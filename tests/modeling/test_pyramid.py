"""The necks as plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hiera_det.errors import InputError
from hiera_det.modeling.hiera import Feature
from hiera_det.modeling.pyramid import FPN, LayerNorm2d, SimpleFeaturePyramid

INFO = tuple(Feature(f"stage{i + 1}", 16 << i, 4 << i) for i in range(4))


def stage_maps(height: int = 64, width: int = 96) -> dict[str, torch.Tensor]:
    """Random maps as a trunk gives them."""
    return {f.name: torch.randn(2, f.channels, height // f.stride, width // f.stride) for f in INFO}


def assert_levels(neck: FPN | SimpleFeaturePyramid, channels: int) -> None:
    """p2 to p6 with the stated strides, and a gradient for every parameter."""
    levels = neck(stage_maps())
    assert tuple(levels) == ("p2", "p3", "p4", "p5", "p6")
    for feature in neck.feature_info:
        expected = (2, channels, -(-64 // feature.stride), -(-96 // feature.stride))
        assert levels[feature.name].shape == expected
    sum(level.square().sum() for level in levels.values()).backward()
    assert all(p.grad is not None for p in neck.parameters())


@pytest.mark.parametrize("norm", ["LN", ""])
def test_fpn_gives_five_levels(norm: str) -> None:
    assert_levels(FPN(INFO, 32, norm), 32)


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("norm", ["LN", ""])
def test_simple_pyramid_gives_five_levels_from_any_stage(stage: int, norm: str) -> None:
    assert_levels(SimpleFeaturePyramid(INFO[stage], 32, norm), 32)


def test_fpn_adds_the_coarser_level() -> None:
    neck = FPN(INFO, 8, "")
    maps = stage_maps()
    moved = dict(maps, stage4=maps["stage4"] + 1.0)
    before, after = neck(maps), neck(moved)
    assert all(not torch.equal(before[name], after[name]) for name in before)
    moved = dict(maps, stage1=maps["stage1"] + 1.0)
    assert all(torch.equal(before[name], neck(moved)[name]) for name in ("p3", "p4", "p5", "p6"))


def test_layer_norm_normalises_channels_at_each_position() -> None:
    norm = LayerNorm2d(8)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 8, 4, 6)
    centred = x - x.mean(1, keepdim=True)
    expected = centred / (x.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    expected = expected * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(norm(x), expected)
    torch.testing.assert_close(norm(x.contiguous(memory_format=torch.channels_last)), expected)


def test_unknown_norm_and_gaps_between_strides_are_refused() -> None:
    with pytest.raises(InputError, match="'BN'"):
        FPN(INFO, 8, "BN")
    with pytest.raises(InputError, match="twice the one before"):
        FPN((INFO[0], INFO[2]), 8)


@pytest.mark.parametrize("levels", [("p2",), ("p4", "p3"), ("p6",), ("p3", "p4", "p5", "p6", "p7")])
def test_what_unwanted_levels_need_is_not_built(levels: tuple[str, ...]) -> None:
    whole = FPN(INFO, 8, top="conv")
    neck = FPN(INFO, 8, levels=levels, top="conv")
    neck.load_state_dict({name: whole.state_dict()[name] for name in neck.state_dict()})
    maps = stage_maps()
    wanted, all_levels = neck(maps), whole(maps)
    assert tuple(wanted) == tuple(sorted(levels)) == tuple(feature.name for feature in neck.feature_info)
    assert all(torch.equal(wanted[name], all_levels[name]) for name in wanted)
    sum(level.square().sum() for level in wanted.values()).backward()
    assert all(p.grad is not None for p in neck.parameters())
    simple = SimpleFeaturePyramid(INFO[2], 8, levels=levels, top="conv")
    assert tuple(simple(maps)) == tuple(sorted(levels))
    sum(level.square().sum() for level in simple(maps).values()).backward()
    assert all(p.grad is not None for p in simple.parameters())


def test_levels_above_by_convolutions_are_retinanets() -> None:
    """As detectron2's LastLevelP6P7 over p5."""
    neck = FPN(INFO, 8, top="conv")
    levels = neck(stage_maps())
    assert [feature.stride for feature in neck.feature_info] == [4, 8, 16, 32, 64, 128]
    torch.testing.assert_close(levels["p6"], neck.top["p6"](levels["p5"]))
    torch.testing.assert_close(levels["p7"], neck.top["p7"](levels["p6"].relu()))
    assert levels["p7"].shape == (2, 8, 1, 1)


def test_levels_and_tops_that_there_are_not_are_refused() -> None:
    with pytest.raises(InputError, match=r"levels \('p3', 'p7'\): give some of p2, .*; p6 and p7 with the top conv"):
        FPN(INFO, 8, levels=("p3", "p7"))
    with pytest.raises(InputError, match="levels 'p3': give some of"):
        SimpleFeaturePyramid(INFO[2], 8, levels="p3")
    with pytest.raises(InputError, match="top 'max': choose one of pool, conv"):
        FPN(INFO, 8, top="max")
