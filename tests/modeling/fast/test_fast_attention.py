"""Attention by explicit products on a CPU: equal to the definition, and taken where it is meant to be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hiera_det.modeling.fast import attention as fused
from hiera_det.modeling.fast.attention import attention

FUSED = "_scaled_dot_product_flash_attention_for_cpu"

pytestmark = pytest.mark.usefixtures("fast_paths")


class Operations(TorchDispatchMode):
    """Records the names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.add(func.__name__.split(".")[0])
        return func(*args, **(kwargs or {}))


def make(windows: int, heads: int, queries: int, keys: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as the trunk has them: views of one product's output."""
    torch.manual_seed(0)
    q, k, v = torch.randn(windows, keys, 3, heads, 24, dtype=dtype).transpose(1, 3).unbind(2)
    return q[:, :, :queries], k, v


def by_definition(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax of scaled products in float64."""
    scores = q.double() @ k.double().transpose(-2, -1) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return (scores.softmax(-1) @ v.double()).transpose(1, 2)


@pytest.mark.parametrize("block_scores", [fused.BLOCK_SCORES, 2**14])
@pytest.mark.parametrize(
    ("dtype", "shape", "masked"),
    [
        (torch.float32, (1, 2, 600, 600), False),
        (torch.float32, (2, 2, 150, 600), False),
        (torch.bfloat16, (6, 2, 64, 64), False),
        (torch.bfloat16, (5, 4, 4, 16), False),
        (torch.bfloat16, (5, 4, 49, 49), True),
        (torch.bfloat16, (2, 2, 300, 300), True),
        (torch.bfloat16, (1, 2, 600, 600), False),
    ],
)
def test_products_in_blocks_equal_the_definition(
    dtype: torch.dtype,
    shape: tuple[int, int, int, int],
    masked: bool,
    block_scores: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fused, "BLOCK_SCORES", block_scores)
    q, k, v = make(*shape, dtype)
    mask = (torch.arange(shape[3]) < shape[3] - 5).expand(shape[0], 1, 1, -1).clone() if masked else None
    if mask is not None:
        mask[0, :, :, 3] = False
    with torch.no_grad(), Operations() as operations:
        got = attention(q, k, v, mask)
    if torch.backends.mkldnn.is_available():  # float32's products are worth it in oneDNN only
        assert FUSED not in operations.names
    expected = by_definition(q, k, v, mask)
    assert got.shape == (shape[0], shape[2], shape[1], 24)
    # bfloat16 has 8 bits: scores and weights are rounded by up to 2**-9 each, values and result too.
    limit = 1e-5 if dtype == torch.float32 else 2e-2
    assert (got - expected).abs().max() <= limit * expected.abs().max()


@pytest.mark.parametrize(("dtype", "keys"), [(torch.float32, 196), (torch.float64, 600)])
def test_other_cases_are_left_to_the_fused_kernel(dtype: torch.dtype, keys: int) -> None:
    q, k, v = make(2, 2, keys, keys, dtype)
    with torch.no_grad(), Operations() as operations:
        got = attention(q, k, v)
    assert FUSED in operations.names
    torch.testing.assert_close(got.double(), by_definition(q, k, v, None), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_go_through_the_fused_kernel(dtype: torch.dtype) -> None:
    q, k, v = (x.detach().requires_grad_() for x in make(1, 2, 600, 600, dtype))
    with Operations() as operations:
        got = attention(q, k, v)
        got.float().square().sum().backward()
    assert FUSED in operations.names
    doubles = [x.detach().double().requires_grad_() for x in (q, k, v)]
    by_definition(*doubles, None).square().sum().backward()
    for x, expected in zip((q, k, v), doubles, strict=True):
        assert x.grad is not None
        assert expected.grad is not None
        assert (x.grad - expected.grad).abs().max() <= (1e-4 if dtype == torch.float32 else 3e-2) * (
            expected.grad.abs().max()
        )


@pytest.mark.parametrize(("dtype", "keys"), [(torch.float32, 600), (torch.float32, 49), (torch.bfloat16, 49)])
def test_the_operation_of_compiled_graphs_keeps_its_promises(dtype: torch.dtype, keys: int) -> None:
    torch.library.opcheck(fused._opaque_attention, (*make(2, 2, keys, keys, dtype), None))
