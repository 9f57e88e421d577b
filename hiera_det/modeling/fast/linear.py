"""A linear layer over tokens by the faster of PyTorch's kernels on a CPU.

On a CPU `torch.nn.functional.linear` copies the bias into the output first. In float32 it then runs MKL's matrix
product, which on AMD's Zen 5 reaches about half the rate of oneDNN's. The same product as a 1x1 convolution runs
oneDNN's, bias included.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiera_det.modeling.fast.paths import Kernel, Path, choose, has_choice, to_compute_dtype, untouched

__all__ = ["linear", "pointwise_product"]


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """What the layer gives, within rounding.

    Args:
        layer: a `torch.nn.Linear`, or what somebody put in its place, which is then called.
        x: tokens ``[B, N, in_features]``.

    Returns:
        tokens ``[B, N, out_features]``.
    """
    if not has_choice(x) or x.ndim != 3 or not isinstance(layer, nn.Linear) or not untouched(layer):
        return layer(x)  # type: ignore[no-any-return]
    kernel = choose(Path.PRODUCT, x, layer.weight, layer.bias)
    if kernel is Kernel.PLAIN:
        return layer(x)
    if kernel is Kernel.FAST:
        return pointwise_product(x, layer.weight, layer.bias)
    x, weight = to_compute_dtype(x, layer.weight)
    return _opaque_product(x, weight, layer.bias if layer.bias is None else layer.bias.to(weight.dtype))


def pointwise_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` as a 1x1 convolution, which oneDNN computes.

    Args:
        x: tokens ``[B, N, C]``, which in memory are a channels-last map: nothing is copied.
        weight: ``[out, C]``.
        bias: ``[out]``.

    Returns:
        tokens ``[B, N, out]``.
    """
    if not x.numel():
        return F.linear(x, weight, bias)  # a convolution takes no empty map
    if not x.is_contiguous():
        return _convolve(x, weight, bias)
    row = x.flatten(0, 1)[None]  # one long row is fastest
    return _convolve(row, weight, bias).view(*x.shape[:2], weight.shape[0])


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Tokens ``[B, N, C]`` as a map ``[B, C, 1, N]`` through a 1x1 convolution, and back."""
    y = F.conv2d(x.transpose(1, 2).unsqueeze(2), weight[:, :, None, None], bias)
    return y.squeeze(2).transpose(1, 2)


@torch.library.custom_op("hiera_det::product", mutates_args=(), device_types="cpu")
def _opaque_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`pointwise_product` as one operation, for which a compiler copies nothing into another layout."""
    return pointwise_product(x.contiguous(), weight, bias)


@_opaque_product.register_fake
def _product_shape(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What `_opaque_product` returns, without values."""
    return x.new_empty(*x.shape[:2], weight.shape[0])
