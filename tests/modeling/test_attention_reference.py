"""Every kind of attention against one that is slow and obviously right: all pairs, less those that may not be seen.

The reference works on the map as it is: it pads it, marks each token's window and whether it is real, and lets each
query see the keys of its own window. Outputs and gradients are compared in float64.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hiera_det.modeling.attention import MaskUnitAttention
from hiera_det.modeling.tokens import UnitGrid, reroll, unroll

DIM, DIM_OUT, HEADS = 6, 8, 2
#: Side of a mask unit in tokens at the input, and the poolings still to come there.
UNIT = 4
STRIDES = ((2, 2), (2, 2))


def reference(attention: MaskUnitAttention, x: Tensor, window: int, pools: bool) -> Tensor:
    """The map ``[B, H, W, DIM]`` to the map ``[B, H', W', DIM_OUT]``; ``window`` in tokens, 0 for global."""
    batch, height, width, _ = x.shape
    side_h, side_w = (window, window) if window else (height, width)
    x = F.pad(x, (0, 0, 0, -width % side_w, 0, -height % side_h))
    padded_h, padded_w = x.shape[1:3]
    y, across = torch.meshgrid(torch.arange(padded_h), torch.arange(padded_w), indexing="ij")
    windows = (y // side_h) * (padded_w // side_w) + across // side_w
    real = (y < height) & (across < width)

    qkv = (x @ attention.qkv.weight.T + attention.qkv.bias).view(batch, padded_h, padded_w, 3, DIM_OUT)
    q, k, v = qkv.unbind(3)
    if pools:
        q = F.max_pool2d(q.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        query_windows = windows[::2, ::2]
    else:
        query_windows = windows
    out_h, out_w = q.shape[1:3]
    seen = query_windows.reshape(-1, 1) == windows.reshape(1, -1)
    if attention.mask_padding:
        seen = seen & real.reshape(1, -1)
    heads = [tensor.reshape(batch, -1, HEADS, DIM_OUT // HEADS).transpose(1, 2) for tensor in (q, k, v)]
    scores = heads[0] @ heads[1].transpose(-1, -2) / (DIM_OUT // HEADS) ** 0.5
    out = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1) @ heads[2]
    out = out.transpose(1, 2).reshape(batch, out_h, out_w, DIM_OUT)
    step = 2 if pools else 1
    out = out[:, : height // step, : width // step]
    return out @ attention.proj.weight.T + attention.proj.bias


@pytest.mark.parametrize("pools", [False, True])
@pytest.mark.parametrize("mask_padding", [False, True])
@pytest.mark.parametrize("window", [0, 1, 2, 3])
@pytest.mark.parametrize("units", [(2, 2), (4, 6), (3, 5), (1, 2)])
def test_attention_and_its_gradients_equal_the_reference(
    units: tuple[int, int], window: int, mask_padding: bool, pools: bool
) -> None:
    attention = MaskUnitAttention(DIM, DIM_OUT, HEADS, UNIT * UNIT, 4 if pools else 1, window, mask_padding).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter)
    height, width = units[0] * UNIT, units[1] * UNIT
    x = torch.randn(2, height, width, DIM, dtype=torch.float64, requires_grad=True)
    divides = window > 1 and not (units[0] % window or units[1] % window)
    grid = UnitGrid(*units, window if divides else 1, {})  # as the trunk orders tokens
    tokens = unroll(x, STRIDES, grid.group).view(2, -1, DIM)
    size = (height // 2, width // 2) if pools else (height, width)
    out = reroll(attention(tokens, grid), size, STRIDES[1:] if pools else STRIDES, grid.group)
    expected = reference(attention, x, window * UNIT, pools)
    torch.testing.assert_close(out, expected)

    weight = torch.randn_like(expected)
    inputs = [x, *attention.parameters()]
    ours = torch.autograd.grad((out * weight).sum(), inputs)
    theirs = torch.autograd.grad((expected * weight).sum(), inputs)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)
