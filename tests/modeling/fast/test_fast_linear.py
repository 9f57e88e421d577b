"""Linear layers over tokens: equal to PyTorch's on either path."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hiera_det.modeling.fast.linear import linear


class Operations(TorchDispatchMode):
    """Records the names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(func.__name__.split(".")[0])
        return func(*args, **(kwargs or {}))


class Ours(nn.Module):
    """Calls a layer as the trunk does."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return linear(self.layer, x)


def layer_pair() -> tuple[Ours, nn.Linear]:
    """A layer called our way and PyTorch's."""
    torch.manual_seed(0)
    layer = nn.Linear(96, 40)
    return Ours(layer), layer


def backward(layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """Output and all gradients."""
    x = x.clone().requires_grad_()
    y = layer(x)
    return y, *torch.autograd.grad(y.sin().sum(), (x, *layer.parameters()))


@pytest.mark.usefixtures("fast_paths")
@pytest.mark.parametrize("shape", [(1, 1, 96), (1, 4096, 96), (2, 196, 96), (17, 3, 96), (3, 1, 96)])
def test_convolution_path_equals_linear(shape: tuple[int, ...]) -> None:
    ours, theirs = layer_pair()
    x = torch.randn(shape)
    with Operations() as operations:
        y = ours(x)
    if torch.backends.mkldnn.is_available():  # not in every build of PyTorch
        assert "convolution" in operations.names
        assert "addmm" not in operations.names
    assert y.is_contiguous()
    for got, expected in zip(backward(ours, x), backward(theirs, x), strict=True):
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.usefixtures("fast_paths")
def test_tokens_need_not_be_contiguous() -> None:
    ours, theirs = layer_pair()
    x = torch.randn(2, 96, 49).transpose(1, 2)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours(x[:, ::2]), theirs(x[:, ::2]))


@pytest.mark.usefixtures("fast_paths")
@pytest.mark.parametrize("x", [torch.ones(5, 96), torch.ones(2, 5, 96, dtype=torch.float64)], ids=["2-D", "float64"])
def test_other_inputs_go_through_linear(x: Tensor) -> None:
    ours, theirs = (layer.to(x.dtype) for layer in layer_pair())
    with Operations() as operations:
        y = ours(x)
    assert "convolution" not in operations.names
    torch.testing.assert_close(y, theirs(x), rtol=0, atol=0)


@pytest.mark.usefixtures("fast_paths")
def test_autocast_is_left_to_linear() -> None:
    ours, theirs = layer_pair()
    x = torch.randn(2, 7, 96)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x).dtype == torch.bfloat16
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)


@pytest.mark.usefixtures("fast_paths")
def test_one_thread_goes_through_linear() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with Operations() as operations:
            layer_pair()[0](torch.randn(2, 7, 96))
    finally:
        torch.set_num_threads(before)
    assert "addmm" in operations.names
    assert "convolution" not in operations.names


@pytest.mark.usefixtures("fast_paths")
def test_exported_graph_holds_the_linear_layer() -> None:
    ours, theirs = layer_pair()
    x = torch.randn(2, 7, 96)
    exported = torch.export.export(ours, (x,))
    assert "linear" in exported.graph_module.code
    assert "conv2d" not in exported.graph_module.code
    torch.testing.assert_close(exported.module()(x), theirs(x))


@pytest.mark.usefixtures("fast_paths")
def test_compiling_does_not_break_the_graph() -> None:
    ours, theirs = layer_pair()
    x = torch.randn(2, 7, 96)
    torch.testing.assert_close(torch.compile(ours, backend="eager", fullgraph=True)(x), theirs(x))
