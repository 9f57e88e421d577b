"""Looking inside: every block's output, and attention weights that give what the block computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hiera_det import intermediates
from hiera_det.errors import InputError
from hiera_det.modeling.attention import MaskUnitAttention
from hiera_det.modeling.hiera import STAGES, Hiera
from hiera_det.modeling.masking import mask_from_noise
from hiera_det.modeling.tokens import UnitGrid
from hiera_det.modeling.windows import join_windows, split_windows


def small(**overrides: object) -> Hiera:
    """A trunk of the real structure that takes milliseconds."""
    return Hiera(**({"embed_dim": 16, "num_heads": 1, "depths": (1, 2, 2, 1)} | overrides)).eval()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "fields", [{}, {"q_pool": 2}, {"frames": 4}, {"window_size": (8, 4, 4, 2)}], ids=lambda fields: str(fields)
)
def test_hidden_states_end_in_the_stage_maps(fields: dict[str, object], masked: bool) -> None:
    if masked and "window_size" in fields:
        fields = {"window_size": (8, 0, 2, 1)}  # windows of several units take no masks
    trunk = small(**fields)
    images = torch.randn(2, 3, 4, 64, 96) if "frames" in fields else torch.randn(2, 3, 64, 96)
    mask = mask_from_noise(torch.rand(2, 12 if "frames" in fields else 6), 0.5)[0] if masked else None
    inside = intermediates(trunk, images, mask=mask)
    assert len(inside.hidden_states) == 1 + len(trunk.blocks)
    assert inside.attentions == ()
    maps = trunk(images, mask)
    for stage, end in enumerate(trunk.stage_ends):
        torch.testing.assert_close(inside.hidden_states[end + 1], maps[STAGES[stage]])
    assert inside.hidden_states[0].shape == maps["stage1"].shape
    if not masked:
        expected = trunk.patch_embed(images).movedim(1, -1)
        expected = expected + trunk._make_positions(tuple(expected.shape[1:-1])).view(1, *expected.shape[1:])
        torch.testing.assert_close(inside.hidden_states[0], expected.movedim(-1, 1))


def attended(attention: MaskUnitAttention, x: Tensor, weights: Tensor, grid: UnitGrid) -> Tensor:
    """What `MaskUnitAttention` gives, from its weights."""
    split = attention.window > 1 and weights.shape[-1] * weights.shape[1] != x.shape[1]
    split = split or (attention.window > 1 and attention.window != grid.group and weights.shape[1] > 1)
    values = attention.qkv(split_windows(x, grid, attention.window) if split else x).chunk(3, dim=-1)[2]
    values = values.reshape(-1, weights.shape[-1], attention.num_heads, attention.dim_out // attention.num_heads)
    out = (weights.flatten(0, 1) @ values.transpose(1, 2)).transpose(1, 2).flatten(2)
    out = join_windows(out, grid, attention.window) if split else out.reshape(x.shape[0], -1, attention.dim_out)
    return attention.proj(out)


@pytest.mark.parametrize("masks_padding", [False, True])
@pytest.mark.parametrize("q_stride", [1, 4])
@pytest.mark.parametrize(("units", "window", "group"), [((2, 3), 1, 1), ((2, 3), 0, 1), ((4, 6), 2, 2), ((3, 5), 2, 1)])
def test_weights_times_values_is_what_the_attention_gives(
    units: tuple[int, int], window: int, group: int, q_stride: int, masks_padding: bool
) -> None:
    attention = MaskUnitAttention(8, 16, 2, 16, q_stride, window, masks_padding)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter)
    grid = UnitGrid(*units, group, {})
    x = torch.randn(2, 16 * units[0] * units[1], 8)
    weights = attention.weights(x, grid)
    assert weights.ndim == 5
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
    torch.testing.assert_close(attended(attention, x, weights, grid), attention(x, grid), rtol=1e-4, atol=1e-4)


def test_attention_weights_of_every_block_have_the_stated_shapes() -> None:
    images, mask = torch.randn(2, 3, 64, 96), torch.tensor([[True, False, True, False, True, False]] * 2)
    whole = intermediates(small(), images, attentions=True).attentions
    # images, windows, heads, queries, keys; a stage's first block attends as the stage before and pools its queries
    expected = [(2, 6, 1, 64, 64), (2, 6, 2, 16, 64), (2, 6, 2, 16, 16), (2, 6, 4, 4, 16), (2, 1, 4, 24, 24)]
    assert [tuple(weights.shape) for weights in whole] == [*expected, (2, 1, 8, 6, 24)]
    kept = intermediates(small(), images, mask=mask, attentions=True).attentions
    assert tuple(kept[0].shape) == (2, 3, 1, 64, 64)
    assert tuple(kept[-1].shape) == (2, 1, 8, 3, 12)


def test_images_and_masks_are_checked_as_by_the_trunk() -> None:
    with pytest.raises(InputError, match="width must be a multiple of 32"):
        intermediates(small(), torch.zeros(1, 3, 64, 65))
    with pytest.raises(InputError, match=r"expected \[1, 6\]"):
        intermediates(small(), torch.zeros(1, 3, 64, 96), mask=torch.ones(1, 4, dtype=torch.bool))
