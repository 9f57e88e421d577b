"""Mask-unit, windowed and global attention with query pooling (Ryali et al. 2023, section 3.2 and Figure 5)."""

from __future__ import annotations

from torch import Tensor, nn

from hiera_det.modeling.fast.attention import attention
from hiera_det.modeling.fast.linear import TokenLinear
from hiera_det.modeling.tokens import UnitGrid, pool_tokens
from hiera_det.modeling.windows import join_windows, padding_mask, split_windows

__all__ = ["MaskUnitAttention"]


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
        self.qkv = TokenLinear(dim, 3 * dim_out)
        self.proj = TokenLinear(dim_out, dim_out)

    def forward(self, x: Tensor, grid: UnitGrid) -> Tensor:
        """Attend.

        Args:
            x: tokens ``[B, N, dim]``, mask-unit-major.
            grid: how the image's mask units lie; only windows of several units look at it.

        Returns:
            tokens ``[B, N / q_stride, dim_out]``.
        """
        if self.mask_padding and self.window >= max(grid.rows, grid.cols, 2):
            return self.proj(self._attend(x, 0))  # one window holds the whole image
        if self.window > 1 and self.window != grid.group:
            mask = None
            if self.mask_padding:
                mask = padding_mask(grid, self.window, self.unit_tokens, x.shape[0], x.device)
            x = self._attend(split_windows(x, grid, self.window), 0, mask)
            return self.proj(join_windows(x, grid, self.window))
        return self.proj(self._attend(x, self.window**2 * self.unit_tokens))

    def weights(self, x: Tensor, grid: UnitGrid) -> Tensor:
        """The attention's weights, which the fused call never has as a whole; for looking, not for speed.

        Args:
            x: tokens ``[B, N, dim]``, as for `forward`.
            grid: as for `forward`.

        Returns:
            ``[B, windows, heads, queries, keys]``, each row of keys adding up to 1; windows, queries and keys in the
            order of the tokens, and where windows reach over the image's edge, with the padding.
        """
        batch, mask, span = x.shape[0], None, self.window**2 * self.unit_tokens or x.shape[1]
        whole = self.mask_padding and self.window >= max(grid.rows, grid.cols, 2)
        if whole:
            span = x.shape[1]
        elif self.window > 1 and self.window != grid.group:
            if self.mask_padding:
                mask = padding_mask(grid, self.window, self.unit_tokens, batch, x.device)
            x = split_windows(x, grid, self.window)
        qkv = self.qkv(x).view(-1, span, 3, self.num_heads, self.dim_out // self.num_heads)
        queries = pool_tokens(qkv[:, :, 0].flatten(2), self.unit_tokens, self.q_stride)
        q = queries.view(len(qkv), -1, *qkv.shape[3:]).transpose(1, 2)
        scores = q @ qkv[:, :, 1].permute(0, 2, 3, 1) * q.shape[-1] ** -0.5  # [windows, heads, queries, keys]
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return scores.softmax(dim=-1).unflatten(0, (batch, -1))

    def _attend(self, x: Tensor, span: int, mask: Tensor | None = None) -> Tensor:
        """Attention among each ``span`` tokens in a row (0: all of a batch entry's), before the output projection."""
        batch, tokens, _ = x.shape
        span = span or tokens
        head_dim = self.dim_out // self.num_heads
        qkv = self.qkv(x).view(-1, span, 3, self.num_heads, head_dim)
        q, k, v = qkv.transpose(1, 3).unbind(2)  # each [windows, heads, span, head_dim]
        if self.q_stride > 1:
            pooled = pool_tokens(qkv[:, :, 0].flatten(2), self.unit_tokens, self.q_stride)
            q = pooled.view(-1, span // self.q_stride, self.num_heads, head_dim).transpose(1, 2)
        return attention(q, k, v, mask).reshape(batch, tokens // self.q_stride, self.dim_out)
