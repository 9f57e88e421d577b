"""A linear layer over tokens that takes the faster of PyTorch's paths on a CPU.

A compiled graph holds these paths as operations of their own, which the compiler does not look into: it would copy the
tokens into another layout for the convolution, or run MKL's product.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["TokenLinear", "compiled_mlp", "is_exporting", "onednn_pays", "pointwise_product"]

#: Tokens that go through a compiled MLP at a time, so that its hidden layer stays in the cache.
MLP_TOKENS = 4096


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
        if torch.compiler.is_compiling():
            return _opaque_product(*_autocast(x, self.weight, self.bias))
        return pointwise_product(x, self.weight, self.bias)


def compiled_mlp(x: Tensor, fc1: nn.Linear, fc2: nn.Linear) -> Tensor:
    """Two layers with an exact GELU between them, as one operation of a graph compiled where `onednn_pays`.

    Args:
        x: tokens ``[B, N, C]``.
        fc1: C to hidden features, with bias.
        fc2: hidden to out features, with bias.

    Returns:
        tokens ``[B, N, out]``.
    """
    return _opaque_mlp(*_autocast(x, fc1.weight, fc1.bias, fc2.weight, fc2.bias))


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

    Not in an exported graph, which may run anywhere.
    """
    if is_exporting() or x.device.type != "cpu":
        return False
    if torch.is_grad_enabled() and (torch.compiler.is_compiling() or _compute_dtype(x) == torch.bfloat16):
        return False  # an operation of our own has no gradient; bfloat16's products are oneDNN's in any case
    return _compute_dtype(x) in (torch.float32, torch.bfloat16) and _onednn_convolves()


def is_exporting() -> bool:
    """Whether a graph is being made that may run anywhere, by `torch.export` or `torch.jit.trace`."""
    exporting = getattr(torch.compiler, "is_exporting", None)  # PyTorch has it from 2.7 on
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing or (exporting is not None and bool(exporting()))


def _compute_dtype(x: Tensor) -> torch.dtype:
    """The type that a product of ``x`` is computed in on a CPU."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def _onednn_convolves() -> bool:
    """Whether convolutions run in oneDNN here: it is built in, on, and there is more than one thread."""
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and bool(torch.backends.mkldnn.enabled)
        and torch.get_num_threads() > 1
    )


# Asked while compiling, not in the graph, which it would break. `torch.compiler.assume_constant_result` sets the same,
# but imports the compiler for it: a second in every process.
_onednn_convolves._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _autocast(*tensors: Tensor) -> list[Tensor]:
    """Tensors in the type to compute in: what is inside one operation is out of autocast's sight."""
    return [tensor.to(_compute_dtype(tensors[0])) for tensor in tensors]


@torch.library.custom_op("hiera_det::product", mutates_args=(), device_types="cpu")
def _opaque_product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`pointwise_product` as one operation."""
    return pointwise_product(x.contiguous(), weight, bias)


@_opaque_product.register_fake
def _product_shape(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What `_opaque_product` returns, without values."""
    return x.new_empty(*x.shape[:2], weight.shape[0])


@torch.library.custom_op("hiera_det::mlp", mutates_args=(), device_types="cpu")
def _opaque_mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """Both layers and the GELU as one operation, some tokens at a time."""
    out = x.new_empty(1, x.shape[0] * x.shape[1], weight2.shape[0])
    tokens = x.reshape(1, -1, x.shape[2])
    for start in range(0, tokens.shape[1], MLP_TOKENS):
        part = slice(start, start + MLP_TOKENS)
        hidden = torch.ops.aten.gelu_(pointwise_product(tokens[:, part], weight1, bias1))
        out[:, part] = pointwise_product(hidden, weight2, bias2)
    return out.view(*x.shape[:2], -1)


@_opaque_mlp.register_fake
def _mlp_shape(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """What `_opaque_mlp` returns, without values."""
    return x.new_empty(*x.shape[:2], weight2.shape[0])
