"""A linear layer over tokens that takes the faster of PyTorch's paths on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["TokenLinear", "onednn_pays", "pointwise_product"]


class TokenLinear(nn.Linear):
    """`torch.nn.Linear` for tokens ``[B, N, C]``: same parameters, same result within rounding.

    On a CPU `torch.nn.functional.linear` copies the bias into the output first. In float32 it then runs MKL's matrix
    product, which on an AMD processor (Zen 5) reaches about half the rate of oneDNN's. The same product as a 1x1
    convolution runs oneDNN's, bias included.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``[B, N, in_features]`` to tokens ``[B, N, out_features]``."""
        if x.ndim != 3 or not onednn_pays(x):
            return F.linear(x, self.weight, self.bias)
        return pointwise_product(x, self.weight, self.bias)


def pointwise_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` as a 1x1 convolution, which oneDNN computes.

    Args:
        x: tokens ``[B, N, C]``, which in memory are a channels-last map: nothing is copied.
        weight: ``[out, C]``.
        bias: ``[out]``.

    Returns:
        tokens ``[B, N, out]``.
    """
    if not x.is_contiguous():
        return _convolve(x, weight, bias)
    return _convolve(x.view(1, -1, x.shape[2]), weight, bias).view(*x.shape[:2], -1)  # one long row is fastest


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Tokens ``[B, N, C]`` as a map ``[B, C, 1, N]`` through a 1x1 convolution, and back."""
    y = F.conv2d(x.transpose(1, 2).unsqueeze(2), weight[:, :, None, None], bias)
    return y.squeeze(2).transpose(1, 2)


def onednn_pays(x: Tensor) -> bool:
    """Whether a 1x1 convolution of these tokens would run in oneDNN, and gain by it over the linear layer.

    Compiled for a CPU it gains as much; an exported graph keeps the linear layer, for it may run anywhere.
    """
    if torch.compiler.is_exporting() or x.device.type != "cpu":
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    # With a gradient to keep, bfloat16 has nothing to gain: its linear layer's products are oneDNN's too.
    wanted = dtype == torch.float32 or (dtype == torch.bfloat16 and not torch.is_grad_enabled())
    return wanted and _onednn_convolves()


@torch.compiler.assume_constant_result  # asked while compiling, not in the graph, which it would break
def _onednn_convolves() -> bool:
    """Whether convolutions run in oneDNN here: it is built in, on, and there is more than one thread."""
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and bool(torch.backends.mkldnn.enabled)
        and torch.get_num_threads() > 1
    )
