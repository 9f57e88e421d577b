"""Attention windows of several mask units."""

from __future__ import annotations

import pytest
import torch

from hiera_det.modeling.attention import MaskUnitAttention
from hiera_det.modeling.tokens import UnitGrid
from hiera_det.modeling.windows import join_windows, padding_mask, split_windows


@pytest.mark.parametrize("units", [(4, 6), (3, 5), (1, 1), (7, 2)])
@pytest.mark.parametrize("window", [2, 3])
def test_joining_undoes_splitting(units: tuple[int, int], window: int) -> None:
    x = torch.randn(2, units[0] * units[1] * 4, 8)
    grid = UnitGrid(*units, 1, {})
    windows = split_windows(x, grid, window)
    count = -(-units[0] // window) * -(-units[1] // window)
    assert windows.shape == (2 * count, window * window * 4, 8)
    assert torch.equal(join_windows(windows, grid, window), x)


def test_a_window_holds_its_own_square_of_units_and_zeros_beyond_the_image() -> None:
    units = torch.arange(1.0, 7).view(1, 6, 1)  # 2 rows of 3 units, one token each
    first, second = split_windows(units, UnitGrid(2, 3, 1, {}), 2).squeeze(-1).tolist()
    assert first == [1, 2, 4, 5]
    assert second == [3, 0, 6, 0]


def test_attention_stays_inside_its_window() -> None:
    attention = MaskUnitAttention(8, 8, 2, unit_tokens=4, q_stride=1, window=2)
    x = torch.randn(1, 16 * 4, 8)  # 4 rows of 4 units
    changed = x.clone()
    changed[:, :4] += 1.0  # unit 0
    grid = UnitGrid(4, 4, 1, {})
    difference = (attention(x, grid) - attention(changed, grid)).abs().amax(dim=-1).view(4, 4, 4).amax(dim=-1) > 0
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[:2, :2] = True
    assert torch.equal(difference, expected)


def test_a_window_as_large_as_the_image_is_global_attention() -> None:
    windowed = MaskUnitAttention(8, 16, 2, unit_tokens=4, q_stride=4, window=3)
    everywhere = MaskUnitAttention(8, 16, 2, unit_tokens=4, q_stride=4, window=0)
    everywhere.load_state_dict(windowed.state_dict())
    x = torch.randn(2, 9 * 4, 8)
    for group in (1, 3):  # gathered, or contiguous already
        torch.testing.assert_close(windowed(x, UnitGrid(3, 3, group, {})), everywhere(x, UnitGrid(3, 3, 1, {})))


@pytest.mark.parametrize("q_stride", [1, 4])
def test_masked_padding_leaves_windows_as_small_as_the_image(q_stride: int) -> None:
    masked = MaskUnitAttention(8, 16, 2, unit_tokens=4, q_stride=q_stride, window=3, mask_padding=True)
    everywhere = MaskUnitAttention(8, 16, 2, unit_tokens=4, q_stride=q_stride, window=0)
    zeros = MaskUnitAttention(8, 16, 2, unit_tokens=4, q_stride=q_stride, window=3)
    for other in (everywhere, zeros):
        other.load_state_dict(masked.state_dict())
    x, grid = torch.randn(2, 4 * 4, 8), UnitGrid(2, 2, 1, {})
    torch.testing.assert_close(masked(x, grid), everywhere(x, grid))
    assert (zeros(x, grid) - everywhere(x, grid)).abs().max() > 1e-3


def test_the_mask_shows_real_tokens_only() -> None:
    mask = padding_mask(UnitGrid(2, 3, 1, {}), 2, unit_tokens=2, batch=2, device=torch.device("cpu"))
    assert mask.shape == (4, 1, 1, 8)
    assert mask[0].all()
    assert mask[1].flatten().tolist() == [True, True, False, False] * 2
    assert torch.equal(mask[2:], mask[:2])
    assert padding_mask(UnitGrid(2, 4, 1, {}), 2, unit_tokens=2, batch=2, device=torch.device("cpu")) is None
