"""Masks of mask units: drawn, checked, and what of the images the kept units see."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hiera_det.errors import InputError
from hiera_det.modeling.hiera import Hiera
from hiera_det.modeling.masking import gather_units, kept_units, mask_from_noise, unit_windows


def small(**overrides: object) -> Hiera:
    """A trunk of the real structure that takes milliseconds."""
    return Hiera(**({"embed_dim": 16, "num_heads": 1, "depths": (1, 2, 2, 1)} | overrides)).eval()


def random_mask(units: int, ratio: float = 0.5, images: int = 2) -> Tensor:
    return mask_from_noise(torch.rand(images, units), ratio)[0]


@pytest.mark.parametrize(("units", "ratio", "keeps"), [(49, 0.6, 19), (392, 0.9, 39), (4, 0.5, 2), (2, 0.01, 1)])
def test_the_units_of_the_smallest_noise_are_kept(units: int, ratio: float, keeps: int) -> None:
    noise = torch.rand(3, units)
    mask, kept = mask_from_noise(noise, ratio)
    assert kept.shape == (3, keeps)
    for image in range(3):
        smallest = sorted(noise[image].argsort()[:keeps].tolist())
        assert kept[image].tolist() == mask[image].nonzero().flatten().tolist() == smallest
    assert torch.equal(kept_units(mask), kept)


@pytest.mark.parametrize(
    ("ratio", "says"),
    [
        (0.0, "mask_ratio 0.0: must be above 0 and below 1"),
        (1.0, "mask_ratio 1.0: must be above 0 and below 1"),
        (-0.6, "mask_ratio -0.6: must be above"),
        (0.99, "mask_ratio 0.99 keeps 0 of 49 mask units"),
        (1e-20, "keeps 49 of 49 mask units"),
    ],
)
def test_a_ratio_that_leaves_nothing_or_everything_is_refused(ratio: float, says: str) -> None:
    with pytest.raises(InputError, match=says):
        mask_from_noise(torch.rand(2, 49), ratio)


def test_kept_tokens_are_those_of_their_units() -> None:
    tokens = torch.arange(24.0).view(1, 12, 2)
    got = gather_units(tokens, torch.tensor([[0, 3], [1, 2]]), unit_tokens=3)
    assert torch.equal(got[0], tokens[0, [0, 1, 2, 9, 10, 11]])
    assert torch.equal(got[1], tokens[0, 3:9])


def test_a_window_is_the_unit_and_its_border_with_zeros_for_what_is_left_out() -> None:
    images = torch.rand(1, 1, 16, 24) + 1.0
    mask = torch.tensor([[True, False, True, False, True, True]])  # 2 x 3 units of 8 x 8 pixels
    windows = unit_windows(images, mask, kept_units(mask), side=8)
    assert windows.shape == (4, 1, 12, 12)
    above = images * torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]).repeat_interleave(8, 0).repeat_interleave(8, 1)
    assert torch.equal(windows[0, 0, 4:, 4:], images[0, 0, :8, :8])
    assert not windows[0, 0, :4].any()  # outside the image
    assert torch.equal(windows[3, 0], above[0, 0, 4:, 12:])  # its own pixels, kept ones above and at the left
    assert not windows[2, 0, :4, 4:].any()  # the unit above was left out
    assert not windows[2, 0, 4:, :4].any()  # and so was the one at the left
    assert torch.equal(windows[2, 0, :4, :4], images[0, 0, 4:8, 4:8])


@pytest.mark.parametrize("fields", [{}, {"q_pool": 2}, {"frames": 4}, {"mask_unit_size": 16}, {"pos_embed": "tile"}])
def test_keeping_every_unit_gives_the_maps_of_the_whole_image(fields: dict[str, object]) -> None:
    trunk = small(**fields)
    images = torch.randn(2, 3, 4, 64, 128) if "frames" in fields else torch.randn(2, 3, 64, 128)
    grid = trunk.unit_grid(images)
    mask = torch.ones(2, torch.tensor(grid).prod(), dtype=torch.bool)
    for name, units in trunk(images, mask).items():
        frames, (rows, cols), side = grid[:-2], grid[-2:], units.shape[-1]
        x = units.view(2, *frames, rows, cols, -1, side, side).movedim(-3, 1).transpose(-3, -2)
        x = x.reshape(2, units.shape[2], *frames, rows * side, cols * side)
        torch.testing.assert_close(x, trunk(images)[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fields", [{}, {"q_pool": 2}, {"frames": 4}])
def test_nothing_of_a_unit_that_is_left_out_is_seen(fields: dict[str, object]) -> None:
    trunk = small(**fields)
    images = torch.randn(2, 3, 4, 64, 96) if "frames" in fields else torch.randn(2, 3, 64, 96)
    mask = random_mask(12 if "frames" in fields else 6)
    changed = images.clone()
    seen = mask.view(2, 1, *trunk.unit_grid(images)).repeat_interleave(32, -1).repeat_interleave(32, -2)
    seen = (seen.repeat_interleave(2, 2) if "frames" in fields else seen).expand_as(images)
    changed[~seen] = 100.0
    with torch.no_grad():
        before, after = trunk(images, mask), trunk(changed, mask)
        assert (trunk(images)["stage1"] - trunk(changed)["stage1"]).abs().max() > 1.0
    for name, units in before.items():
        assert torch.equal(units, after[name]), name


def test_masked_evaluation_without_gradients_and_with_checkpoints_gives_the_same() -> None:
    trunk, saving = small(), small(use_checkpoint=True)
    saving.load_state_dict(trunk.state_dict())
    images, mask = torch.randn(2, 3, 64, 96), random_mask(6)
    with torch.inference_mode():
        fast = trunk(images, mask)
    for model in (trunk, saving):
        maps = model(images, mask)
        for name, units in maps.items():
            torch.testing.assert_close(units, fast[name])
        maps["stage4"].square().sum().backward()
    for name, parameter in trunk.named_parameters():
        torch.testing.assert_close(saving.get_parameter(name).grad, parameter.grad)


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (torch.ones(2, 5, dtype=torch.bool), r"mask \[2, 5\]: expected \[2, 6\], one value for each of 2x3 units"),
        (torch.ones(1, 6, dtype=torch.bool), r"mask \[1, 6\]: expected \[2, 6\]"),
        (torch.ones(2, 6), r"mask of torch.float32: must be torch.bool"),
        (torch.ones(2, 6, dtype=torch.bool).numpy(), "mask of type ndarray: give a tensor of torch.bool"),
        (torch.tensor([[True] * 6, [True] * 5 + [False]]), r"mask keeps \[6, 5\] units .*: each must keep as many"),
        (torch.zeros(2, 6, dtype=torch.bool), r"mask keeps \[0, 0\] units"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(mask: Tensor, says: str) -> None:
    with pytest.raises(InputError, match=says):
        small()(torch.zeros(2, 3, 64, 96), mask)


def test_windows_of_several_units_take_no_mask() -> None:
    with pytest.raises(InputError, match=r"windows of 4x4 mask units need them all; .* window_size=None"):
        small(window_size=(8, 4, 8, 0))(torch.zeros(2, 3, 64, 96), random_mask(6))
