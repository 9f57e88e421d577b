"""Softmax attention by the fastest exact path of the machine.

PyTorch's fused kernel is right everywhere and best on a GPU. On a CPU it computes in small products of MKL's; explicit
products over blocks that stay in the cache are faster in bfloat16 for every length, and in float32 for long ones, where
oneDNN computes them. Letters: W windows, n queries, m keys, d channels of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hiera_det.modeling.fast.linear import pointwise_product
from hiera_det.modeling.fast.paths import Kernel, Path, choose, differentiates_forward, to_compute_dtype

__all__ = ["attention", "attention_weights"]

#: Scores computed at a time: 4 MiB in bfloat16, 8 in float32, in the cache until the second product.
BLOCK_SCORES = 2**21
#: From that many keys on, oneDNN's products pay in float32.
LONG_KEYS = 512


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of each window's queries among its keys.

    Args:
        q: queries ``[W, heads, n, d]``.
        k: keys ``[W, heads, m, d]``.
        v: values ``[W, heads, m, d]``.
        mask: ``[W, 1, 1, m]``, true for the keys that take part; None for all.

    Returns:
        ``[W, n, heads, d]``.
    """
    if differentiates_forward():
        return (attention_weights(q, k, mask) @ v).transpose(1, 2)
    kernel = choose(Path.ATTENTION, q, k, v, mask)
    if kernel is Kernel.PLAIN:
        return _fused(q, k, v, mask)
    q, k, v = to_compute_dtype(q, k, v)
    return (_opaque_attention if kernel is Kernel.OPAQUE else _in_blocks)(q, k, v, mask)


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """The weights ``[W, heads, n, m]`` of `attention`, by definition."""
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1)


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """PyTorch's own; arguments and result as of `attention`."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def _in_blocks(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """By products in blocks, but for the short float32 ones; arguments and result as of `attention`."""
    if q.dtype != torch.bfloat16 and (mask is not None or k.shape[2] < LONG_KEYS):
        return _fused(q, k, v, mask)
    out = q.new_empty(q.shape[0], q.shape[2], q.shape[1], q.shape[3])
    scores = q.shape[1] * q.shape[2] * k.shape[2]
    if q.dtype == torch.bfloat16 and scores <= BLOCK_SCORES:
        _by_windows(q, k, v, mask, out, BLOCK_SCORES // scores)
    else:
        _by_heads(q, k, v, mask, out)
    return out


def _by_windows(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, out: Tensor, at_once: int) -> None:
    """Some windows at a time, all their heads in batched products; ``[W, heads, n, d]`` into ``[W, n, heads, d]``."""
    windows, heads, queries, dim = q.shape
    bias, beta = q.new_empty(1, 1, 1), 0
    for start in range(0, windows, at_once):
        part = slice(start, start + at_once)
        q_part, k_part, v_part = (x[part].reshape(-1, x.shape[2], dim) for x in (q, k, v))
        if mask is not None:
            bias, beta = _bias(mask[part], q).expand(-1, heads, 1, -1).reshape(-1, 1, k.shape[2]), 1
        scores = torch.baddbmm(bias, q_part, k_part.transpose(1, 2), beta=beta, alpha=dim**-0.5)
        torch.softmax(scores, dim=-1, out=scores)
        out[part] = torch.bmm(scores, v_part).view(-1, heads, queries, dim).transpose(1, 2)


def _by_heads(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, out: Tensor) -> None:
    """One head and some queries at a time; ``[W, heads, n, d]`` into ``[W, n, heads, d]``."""
    rows = max(1, BLOCK_SCORES // k.shape[2])
    product = F.linear if q.dtype == torch.bfloat16 else pointwise_product  # bfloat16's are oneDNN's anyway
    for window in range(q.shape[0]):
        bias = None if mask is None else _bias(mask[window, 0], q)
        for head in range(q.shape[1]):
            keys = k[window, head] * q.shape[3] ** -0.5
            values = v[window, head].t().contiguous()
            for start in range(0, q.shape[2], rows):
                part = slice(start, start + rows)
                scores = product(q[window, head, part][None], keys)[0]
                if bias is not None:
                    scores += bias
                torch.softmax(scores, dim=-1, out=scores)
                out[window, part, head] = product(scores[None], values)[0]


def _bias(mask: Tensor, like: Tensor) -> Tensor:
    """What to add to the scores: 0 where the mask is true, minus infinity elsewhere."""
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(~mask, float("-inf"))


@torch.library.custom_op("hiera_det::attention", mutates_args=(), device_types="cpu")
def _opaque_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """`_in_blocks` as one operation of a compiled graph, where its loops would be unrolled for one size."""
    return _in_blocks(q, k, v, mask).contiguous()


@_opaque_attention.register_fake
def _attention_shape(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """What `_opaque_attention` returns, without values."""
    return q.new_empty(q.shape[0], q.shape[2], q.shape[1], q.shape[3])
