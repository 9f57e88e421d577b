"""The published sizes, and the rule for global blocks."""

from __future__ import annotations

import pytest

from hiera_det.modeling.variants import HIERADET_VARIANTS, VARIANTS, spread_global_blocks


@pytest.mark.parametrize("size", HIERADET_VARIANTS)
def test_global_blocks_spread_as_in_sam2(size: str) -> None:
    assert spread_global_blocks(VARIANTS[size].depths) == HIERADET_VARIANTS[size].global_blocks


@pytest.mark.parametrize(
    ("depths", "count", "blocks"),
    [((1, 1, 1, 1), 3, ()), ((1, 1, 2, 1), 3, (3,)), ((1, 1, 4, 1), 3, (3, 4, 5)), ((2, 3, 16, 3), 0, ())],
)
def test_short_stages_have_fewer_and_keep_their_first_block(
    depths: tuple[int, ...], count: int, blocks: tuple[int, ...]
) -> None:
    assert spread_global_blocks(depths, count) == blocks
