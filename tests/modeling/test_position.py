"""Position embeddings at other sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hiera_det.modeling.position import (
    absolute_win_embed,
    resize_pos_embed,
    separable_embed,
    split_pos_embed,
    tile_pos_embed,
)


def test_pos_embed_at_pretrain_size_is_unchanged() -> None:
    table = torch.randn(1, 56 * 56, 8)
    assert torch.equal(resize_pos_embed(table, (56, 56), (56, 56)).flatten(1, 2), table)


def test_pos_embed_at_another_size_is_bicubic_without_antialias() -> None:
    table = torch.randn(1, 56 * 56, 8)
    image = table.view(1, 56, 56, 8).permute(0, 3, 1, 2)
    for size in ((64, 96), (24, 16)):
        expected = F.interpolate(image, size=size, mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
        assert torch.equal(resize_pos_embed(table, (56, 56), size), expected)


def test_absolute_win_repeats_the_window_part_and_resamples_the_rest() -> None:
    rest, window = torch.randn(1, 4, 7, 7), torch.randn(1, 4, 8, 8)
    flat = absolute_win_embed(torch.full_like(rest, 2.0), window, (16, 24), antialias=False)
    torch.testing.assert_close(flat - 2.0, window.permute(0, 2, 3, 1).repeat(1, 2, 3, 1))
    alone = absolute_win_embed(rest, torch.zeros_like(window), (16, 24), antialias=False)
    expected = F.interpolate(rest, size=(16, 24), mode="bicubic").permute(0, 2, 3, 1)
    assert torch.equal(alone, expected)
    smoothed = absolute_win_embed(rest, torch.zeros_like(window), (16, 24), antialias=True)
    assert (smoothed - expected).abs().max() > 0.01


def test_half_precision_is_resampled_in_float32() -> None:
    table = torch.randn(1, 16, 4)
    expected = resize_pos_embed(table.bfloat16().float(), (4, 4), (7, 9))
    assert torch.equal(resize_pos_embed(table.bfloat16(), (4, 4), (7, 9)), expected.bfloat16())


def test_separable_positions_add_time_and_space() -> None:
    spatial, temporal = torch.randn(1, 6, 4), torch.randn(1, 3, 4)
    maps = separable_embed(spatial, temporal, (2, 3), 3, (2, 3))
    for t in range(3):
        for y in range(2):
            for x in range(3):
                assert torch.equal(maps[t, y, x], spatial[0, 3 * y + x] + temporal[0, t])


def test_a_shorter_clip_gets_positions_in_between() -> None:
    temporal = torch.arange(4.0).view(1, 4, 1)
    maps = separable_embed(torch.zeros(1, 1, 1), temporal, (1, 1), 2, (1, 1))
    assert maps.flatten().tolist() == [0.5, 2.5]


SIZES = ((112, 112), (128, 128), (256, 256), (200, 336))  # tokens of 448, 512, 1024 and 800x1344 pixels


def smooth_part() -> torch.Tensor:
    """A slow wave over the 56 x 56 table, a different one in each channel."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 56), torch.linspace(0, 1, 56), indexing="ij")
    return torch.stack([torch.cos(channel * y + (3 - channel) * x) for channel in range(4)], dim=-1)


@pytest.mark.parametrize("size", SIZES)
def test_the_split_keeps_the_units_pattern_and_interpolation_does_not(size: tuple[int, int]) -> None:
    pattern, smooth = torch.randn(8, 8, 4), smooth_part()
    plain = (pattern.repeat(7, 7, 1) + smooth).view(1, -1, 4)
    without = smooth.reshape(1, -1, 4)

    def split(table: torch.Tensor) -> torch.Tensor:
        return absolute_win_embed(*split_pos_embed(table, (56, 56), 8), size, antialias=False)

    def interpolated(table: torch.Tensor) -> torch.Tensor:
        return resize_pos_embed(table, (56, 56), size)

    expected = pattern.repeat(size[0] // 8, size[1] // 8, 1)[None]
    # What the pattern adds to the embedding is the pattern, at every unit, and nothing else.
    torch.testing.assert_close(split(plain) - split(without), expected, rtol=0, atol=1e-5)
    difference = (interpolated(plain) - interpolated(without) - expected).square().mean().sqrt()
    assert difference > 0.5 * pattern.std()


def test_the_split_is_the_table_at_its_own_size() -> None:
    table = torch.randn(1, 56 * 56, 4)
    whole = absolute_win_embed(*split_pos_embed(table, (56, 56), 8), (56, 56), antialias=False)
    torch.testing.assert_close(whole.flatten(1, 2), table, rtol=0, atol=1e-6)


def test_tiling_repeats_the_table_and_cuts_it_off() -> None:
    table = torch.randn(1, 56 * 56, 4)
    image = table.view(56, 56, 4)
    tiled = tile_pos_embed(table, (56, 56), (64, 120))[0]
    assert torch.equal(tiled[:56, :56], image)
    assert torch.equal(tiled[56:, 56:112], image[:8])
    assert torch.equal(tiled[:56, 112:], image[:, :8])
    assert torch.equal(tile_pos_embed(table, (56, 56), (24, 16))[0], image[:24, :16])
    assert torch.equal(tile_pos_embed(table, (56, 56), (56, 56)).flatten(1, 2), table)
