"""The whole trunk, with every option that changes its tokens, against one that works on the map as it is.

The reference knows no token order: pooling is `max_pool2d`, and every query is compared with every key of the image,
less those of other windows. Outputs are compared in float64.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hiera_det.modeling.block import HieraBlock
from hiera_det.modeling.hiera import STAGES, Hiera

BASE = {"embed_dim": 8, "num_heads": 1, "depths": (1, 2, 2, 2)}


def reference(trunk: Hiera, images: Tensor, windows: list[int], pools: list[int]) -> list[Tensor]:
    """The output of each block, channels last; window sides in tokens at the block's input, pool sides in tokens."""
    x = trunk.patch_embed(images).movedim(1, -1)
    x = x + trunk._make_positions(tuple(x.shape[1:3]))
    outputs = []
    for block, window, pool in zip(trunk.blocks, windows, pools, strict=True):
        assert isinstance(block, HieraBlock)
        normed = block.norm1(x)
        if block.proj is not None:
            x = max_pool(block.proj(normed.flatten(1, 2)).view(*normed.shape[:3], -1), pool)
        x = x + attend(block, normed, window, pool)
        x = x + block.mlp(block.norm2(x).flatten(1, 2)).view(x.shape)
        outputs.append(x)
    return outputs


def max_pool(x: Tensor, side: int) -> Tensor:
    return F.max_pool2d(x.movedim(-1, 1), side).movedim(1, -1)


def attend(block: HieraBlock, x: Tensor, window: int, pool: int) -> Tensor:
    """Attention of the map ``[B, H, W, C]`` in windows of that side, 0 for global."""
    batch, height, width, _ = x.shape
    heads, dim = block.attn.num_heads, block.attn.dim_out
    y, across = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = (y // window) * width + across // window if window else torch.zeros_like(y)
    q, k, v = (x @ block.attn.qkv.weight.T + block.attn.qkv.bias).view(batch, height, width, 3, dim).unbind(3)
    q = max_pool(q, pool)
    seen = place[::pool, ::pool].reshape(-1, 1) == place.reshape(1, -1)
    q, k, v = (t.reshape(batch, -1, heads, dim // heads).transpose(1, 2) for t in (q, k, v))
    scores = (q @ k.transpose(-1, -2) / math.sqrt(dim // heads)).masked_fill(~seen, -torch.inf)
    out = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, height // pool, width // pool, dim)
    return out @ block.attn.proj.weight.T + block.attn.proj.bias


# Options, then each block's window in tokens at its input and the side of its pooling.
CASES = [
    ({}, [8, 8, 4, 4, 0, 0, 0], [1, 2, 1, 2, 1, 2, 1]),
    ({"q_pool": 2}, [8, 8, 4, 4, 0, 0, 0], [1, 2, 1, 2, 1, 1, 1]),
    ({"q_pool": 1}, [8, 8, 4, 4, 0, 0, 0], [1, 2, 1, 1, 1, 1, 1]),
    ({"q_pool": 0}, [8, 8, 8, 8, 0, 0, 0], [1] * 7),
    ({"q_pool": 2, "window_size": (8, 4, 2, 2)}, [8, 8, 4, 4, 2, 2, 2], [1, 2, 1, 2, 1, 1, 1]),
    ({"window_size": (0, 4, 0, 1)}, [0, 0, 4, 4, 0, 0, 1], [1, 2, 1, 2, 1, 2, 1]),
    ({"mask_unit_size": 16}, [16, 16, 8, 8, 0, 0, 0], [1, 2, 1, 2, 1, 2, 1]),
    ({"mask_unit_size": 4, "q_pool": 2}, [4, 4, 2, 2, 0, 0, 0], [1, 2, 1, 2, 1, 1, 1]),
    (
        {"mask_unit_size": 4, "q_pool": 2, "window_size": (8, 4, 0, 0), "window_padding": "mask"},
        [8, 8, 4, 4, 0, 0, 0],
        [1, 2, 1, 2, 1, 1, 1],
    ),
    ({"mask_unit_size": 6, "q_pool": 1, "q_stride": 3}, [6, 6, 2, 2, 0, 0, 0], [1, 3, 1, 1, 1, 1, 1]),
    ({"mask_unit_size": 16, "q_pool": 2, "q_stride": 4}, [16, 16, 4, 4, 0, 0, 0], [1, 4, 1, 4, 1, 1, 1]),
    ({"num_heads": (2, 3, 6, 9), "dim_mul": 1.5}, [8, 8, 4, 4, 0, 0, 0], [1, 2, 1, 2, 1, 2, 1]),
]


@pytest.mark.parametrize(("options", "windows", "pools"), CASES, ids=lambda value: str(value) if value else "published")
def test_maps_equal_those_of_the_reference(options: dict[str, object], windows: list[int], pools: list[int]) -> None:
    trunk = Hiera(**(BASE | options)).double().eval()
    for parameter in trunk.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    side = trunk.size_divisibility
    images = torch.randn(2, 3, 2 * side, 3 * side if side < 64 else side, dtype=torch.float64)
    with torch.no_grad():
        expected = reference(trunk, images, windows, pools)
        maps = trunk(images)
    for stage, end in enumerate(trunk.stage_ends):
        feature = trunk.feature_info[stage]
        map_ = maps[STAGES[stage]]
        torch.testing.assert_close(map_, expected[end].movedim(-1, 1))
        assert map_.shape[1:] == (feature.channels, *(size // feature.stride for size in images.shape[2:]))


def test_an_image_of_one_mask_unit_equals_the_reference_with_and_without_gradients() -> None:
    trunk = Hiera(**BASE, q_pool=0).double().eval()
    image = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    expected = reference(trunk, image, [8, 8, 8, 8, 0, 0, 0], [1] * 7)[-1].movedim(-1, 1)
    torch.testing.assert_close(trunk(image)["stage4"], expected)
    with torch.no_grad():
        torch.testing.assert_close(trunk(image)["stage4"], expected)
