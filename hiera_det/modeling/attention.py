"""Mask-unit, windowed and global attention with query pooling (Ryali et al. 2023, section 3.2 and Figure 5).

Letters: B images, N tokens per image, W windows of all images, n queries and m keys of a window, d channels of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hiera_det.errors import InputError
from hiera_det.modeling.fast.attention import attention, attention_weights
from hiera_det.modeling.fast.linear import linear
from hiera_det.modeling.fast.paths import own
from hiera_det.modeling.fast.sizes import covers
from hiera_det.modeling.tokens import UnitGrid, pool_tokens
from hiera_det.modeling.windows import join_windows, padding_mask, split_windows

__all__ = ["MaskUnitAttention"]

torch.fx.wrap("padding_mask")  # one node of a graph of `torch.fx`: it decides by sizes


@own
class MaskUnitAttention(nn.Module):
    """Self-attention inside mask units or windows of them, or over the whole image; optionally max-pooled queries.

    The windows are folded into the batch, so that every case is one 4-D fused call: a 5-D one misses the fused kernels
    and materialises the attention matrix.

    Args:
        dim: input channels.
        dim_out: output channels, a multiple of ``num_heads``.
        num_heads: attention heads.
        unit_tokens: tokens per mask unit at the input.
        q_stride: flattened pooling stride of the queries (4 for 2x2); 1 for none.
        window: the attention window's side in mask units; 1 is the unit itself, 0 the whole image.
        mask_padding: keep the padding of windows that reach over the image's edge out of the attention.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        num_heads: int,
        unit_tokens: int,
        q_stride: int,
        window: int,
        mask_padding: bool = False,
    ) -> None:
        super().__init__()
        self.dim_out = dim_out
        self.num_heads = num_heads
        self.unit_tokens = unit_tokens
        self.q_stride = q_stride
        self.window = window
        self.mask_padding = mask_padding
        self.qkv = nn.Linear(dim, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor, grid: UnitGrid) -> Tensor:
        """Attend.

        Args:
            x: tokens ``[B, N, dim]``, mask-unit-major.
            grid: how the image's mask units lie; only windows of several units look at it.

        Returns:
            tokens ``[B, N / q_stride, dim_out]``.
        """
        batch, tokens, _ = x.shape
        windows, span, mask = self._gather_windows(x, grid)
        y = attention(*self._heads(windows, span), mask)  # [W, n, heads, d]
        if windows is not x:
            y = join_windows(y.reshape(-1, span // self.q_stride, self.dim_out), grid, self.window)
        return linear(self.proj, y.reshape(batch, tokens // self.q_stride, self.dim_out))

    def weights(self, x: Tensor, grid: UnitGrid) -> Tensor:
        """The attention's weights, which the fused call never has as a whole; for looking, not for speed.

        Args:
            x: tokens ``[B, N, dim]``, as for `forward`.
            grid: as for `forward`.

        Returns:
            ``[B, windows, heads, queries, keys]``, each row of keys adding up to 1; windows, queries and keys in the
            order of the tokens, and where windows reach over the image's edge, with the padding.
        """
        windows, span, mask = self._gather_windows(x, grid)
        q, k, _ = self._heads(windows, span)
        return attention_weights(q, k, mask).view(x.shape[0], -1, *q.shape[1:3], k.shape[2])

    def _gather_windows(self, x: Tensor, grid: UnitGrid) -> tuple[Tensor, int, Tensor | None]:
        """Tokens window by window, how many a window has, and which of them are the image's own (None: all)."""
        span = self.window**2 * self.unit_tokens
        if self.window == 0 or (self.mask_padding and self.window > 1 and covers(self.window, grid.rows, grid.cols)):
            return x, x.shape[1], None
        if self.window in (1, grid.group):
            return x, span, None
        if grid.group != 1:
            raise InputError(
                f"attention window of {self.window}x{self.window} mask units: the trunk was built for others, or units "
                "are left out by a mask; give window_size when it is built"
            )
        mask = padding_mask(grid, self.window, self.unit_tokens, x.shape[0], x.device) if self.mask_padding else None
        return split_windows(x, grid, self.window), span, mask

    def _heads(self, x: Tensor, span: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``[W, heads, n, d]``, keys and values ``[W, heads, m, d]`` of each ``span`` tokens in a row."""
        head_dim = self.dim_out // self.num_heads
        windows = x.shape[0] * (x.shape[1] // span)
        q, k, v = linear(self.qkv, x).reshape(windows, span, 3, self.num_heads, head_dim).unbind(2)
        if self.q_stride > 1:
            q = pool_tokens(q.flatten(2), self.unit_tokens, self.q_stride)
            q = q.view(windows, span // self.q_stride, self.num_heads, head_dim)
        # Unbound once, before they are transposed: the backward pass puts three gradients into place in one copy, and
        # does not add two gradients of all of qkv.
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
