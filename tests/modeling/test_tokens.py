"""Token order: what unroll promises, and reroll as its inverse."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hiera_det.modeling.tokens import pool_tokens, reroll, unroll

Q_STRIDES = ((2, 2), (2, 2), (2, 2))


@pytest.mark.parametrize("q_strides", [Q_STRIDES, ((2, 2),), ((1, 2), (2, 1)), ()])
@pytest.mark.parametrize("size", [(8, 8), (16, 24)])
def test_reroll_undoes_unroll(size: tuple[int, int], q_strides: tuple[tuple[int, int], ...]) -> None:
    x = torch.randn(2, *size, 3)
    assert torch.equal(reroll(unroll(x, q_strides), size, q_strides), x)


@pytest.mark.parametrize("q_strides", [Q_STRIDES, ((2, 2),), ()])
@pytest.mark.parametrize("group", [2, 3])
def test_reroll_undoes_unroll_in_groups(group: int, q_strides: tuple[tuple[int, int], ...]) -> None:
    x = torch.randn(2, 48, 96, 3)
    assert torch.equal(reroll(unroll(x, q_strides, group), (48, 96), q_strides, group), x)


def test_a_groups_units_are_contiguous_and_its_square_of_the_map() -> None:
    ids = torch.arange(32 * 48).view(1, 32, 48, 1).float()
    windows = unroll(ids, Q_STRIDES, 2).view(6, -1)
    for window in range(6):
        y, x = 16 * (window // 3), 16 * (window % 3)
        assert set(windows[window].tolist()) == set(ids[0, y : y + 16, x : x + 16].flatten().tolist())
    first = unroll(ids[:, :16, :16], Q_STRIDES).view(-1)  # inside, the order is the one of an image of its own
    assert torch.equal(windows[0], first)


def test_a_units_tokens_are_its_square_of_the_map() -> None:
    ids = torch.arange(16 * 24).view(1, 16, 24, 1).float()
    tokens = unroll(ids, Q_STRIDES)
    assert tokens.shape == (6, 64, 1)
    for unit in range(6):
        y, x = 8 * (unit // 3), 8 * (unit % 3)
        assert set(tokens[unit].flatten().tolist()) == set(ids[0, y : y + 8, x : x + 8].flatten().tolist())


def test_pooling_tokens_is_max_pooling_the_map() -> None:
    x = torch.randn(2, 16, 24, 5)
    tokens = unroll(x, Q_STRIDES).view(2, -1, 5)
    for pools in (1, 2, 3):
        tokens = pool_tokens(tokens, 64 >> 2 * (pools - 1), 4)
        expected = F.max_pool2d(x.permute(0, 3, 1, 2), 2**pools).permute(0, 2, 3, 1)
        assert torch.equal(reroll(tokens, (16 >> pools, 24 >> pools), Q_STRIDES[pools:]), expected)


def test_a_map_that_does_not_divide_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"map 12x16: .* mask unit 8x8"):
        unroll(torch.zeros(1, 12, 16, 1), Q_STRIDES)
