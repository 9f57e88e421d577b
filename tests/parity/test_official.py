"""The trunk against the authors' own package, with the same random weights in every tensor."""

from __future__ import annotations

import hiera
import pytest
import torch
from compare import assert_maps_equal, randomise, uninitialised
from torch import Tensor, nn

from hiera_det import build_hiera
from hiera_det.modeling.hiera import STAGES, Hiera
from hiera_det.modeling.position import resize_pos_embed
from hiera_det.modeling.variants import VARIANTS

GRID = (56, 56)


def make_pair(size: str, height: int, width: int) -> tuple[nn.Module, Hiera]:
    """The authors' model built for one image size, and ours learned at 224, with equal weights."""
    with uninitialised():
        official, ours = getattr(hiera, f"hiera_{size}_224")(input_size=(height, width)), build_hiera(size)
    randomise(official)
    state = dict(official.state_dict())
    state["pos_embed"] = 0.5 * torch.randn(1, GRID[0] * GRID[1], state["pos_embed"].shape[-1])
    resized = resize_pos_embed(state["pos_embed"], GRID, (height // 4, width // 4))
    official.pos_embed.data.copy_(resized.flatten(1, 2))
    outcome = ours.load_state_dict(state, strict=False)
    assert not outcome.missing_keys
    assert all(key.startswith(("norm.", "head.")) for key in outcome.unexpected_keys)
    return official.eval(), ours.eval()


def channels_first(maps: list[Tensor]) -> list[Tensor]:
    return [map_.permute(0, 3, 1, 2) for map_ in maps]


@pytest.mark.parametrize(
    ("size", "height", "width"),
    [*((size, 224, 224) for size in VARIANTS), ("base", 256, 384), ("base", 1024, 1024)],
)
def test_stage_maps_equal_the_official_ones(size: str, height: int, width: int) -> None:
    official, ours = make_pair(size, height, width)
    images = torch.randn(1, 3, height, width)
    with torch.inference_mode():
        _, expected = official(images, return_intermediates=True)
        maps = ours(images)
    assert_maps_equal(maps, channels_first(expected))


@pytest.mark.parametrize(("height", "width"), [(224, 224), (256, 384)])
def test_float32_gradients_of_the_first_stage_equal_the_official_ones(height: int, width: int) -> None:
    # The first stage pools nothing: no near-tie can turn, and the float32 path of training is compared as it runs.
    official, ours = make_pair("base", height, width)
    images = torch.randn(2, 3, height, width)
    expected = official(images, return_intermediates=True)[1][0]
    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    (ours(images)["stage1"] * weight.permute(0, 3, 1, 2)).sum().backward()
    theirs = dict(official.named_parameters())
    compared = {name: p for name, p in ours.named_parameters() if p.grad is not None and name != "pos_embed"}
    assert {name.split(".")[0] for name in compared} == {"patch_embed", "blocks"}
    for name, parameter in compared.items():
        expected_grad = theirs[name].grad
        assert (parameter.grad - expected_grad).abs().max() <= 1e-4 * expected_grad.abs().max(), name


@pytest.mark.parametrize(
    ("size", "height", "width"), [("tiny", 224, 224), ("base", 224, 224), ("base_plus", 224, 224), ("base", 256, 384)]
)
def test_gradients_equal_the_official_ones(size: str, height: int, width: int) -> None:
    # In float32 rounding alone turns a near-tie of a max-pool the other way here and there, and with it the gradient.
    official, ours = (model.double() for model in make_pair(size, height, width))
    # Resampled anew in float64: rounding in the positions would turn near-ties as well.
    official.pos_embed.data.copy_(resize_pos_embed(ours.pos_embed, GRID, (height // 4, width // 4)).flatten(1, 2))
    images = torch.randn(2, 3, height, width, dtype=torch.float64)
    _, expected = official(images, return_intermediates=True)
    weights = [torch.randn_like(map_) for map_ in expected]
    sum((map_ * weight).sum() for map_, weight in zip(expected, weights, strict=True)).backward()
    maps = ours(images)
    sum((maps[name] * w.permute(0, 3, 1, 2)).sum() for name, w in zip(STAGES, weights, strict=True)).backward()
    theirs = dict(official.named_parameters())
    for name, parameter in ours.named_parameters():
        expected_grad = theirs[name].grad
        if name == "pos_embed":
            # The official model holds the resized table: push its gradient through the resampling.
            table = parameter.detach().clone().requires_grad_()
            resize_pos_embed(table, GRID, (height // 4, width // 4)).flatten(1, 2).backward(expected_grad)
            expected_grad = table.grad
        tolerance = 1e-8 * expected_grad.abs().max().item()
        torch.testing.assert_close(
            parameter.grad, expected_grad, rtol=0, atol=tolerance, msg=lambda message, name=name: f"{name}: {message}"
        )


def test_initialisation_follows_the_official_one() -> None:
    official, ours = dict(hiera.hiera_tiny_224().named_parameters()), build_hiera("tiny")
    for name, parameter in ours.named_parameters():
        theirs = official[name]
        assert parameter.shape == theirs.shape, name
        # Two samples of one distribution: their means differ by 6 standard errors in fewer than one run of 10^8.
        error = (theirs.std() * (2 / theirs.numel()) ** 0.5).item()
        assert parameter.std().item() == pytest.approx(theirs.std().item(), abs=6 * error), name
        assert parameter.mean().item() == pytest.approx(theirs.mean().item(), abs=6 * error), name
