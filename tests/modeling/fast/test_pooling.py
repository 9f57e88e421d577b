"""The q-pool with its own backward pass: PyTorch's values and gradients to the bit, ties and second derivatives too."""

from __future__ import annotations

import pytest
import torch

from hiera_det.modeling.fast.paths import forced
from hiera_det.modeling.fast.pooling import largest


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stride", [2, 4, 9])
@pytest.mark.parametrize("part", [False, True], ids=["whole", "part"])
def test_values_and_gradients_are_those_of_amax_with_ties(dtype: torch.dtype, stride: int, part: bool) -> None:
    torch.manual_seed(stride)
    whole = torch.randn(5, stride, 3, 16, dtype=dtype).round()  # rounded: many are equal
    x = (whole[..., :8] if part else whole[..., :8].clone()).requires_grad_()
    assert largest(x).grad_fn.name().startswith("_Largest")
    grad = torch.randn(5, 3, 8, dtype=dtype)
    expected = torch.autograd.grad(x.amax(1), x, grad)[0]
    assert torch.equal(largest(x), x.amax(1))
    assert torch.equal(torch.autograd.grad(largest(x), x, grad)[0], expected)


@pytest.mark.parametrize("part", [False, True], ids=["whole", "part"])
def test_both_derivatives_are_right(part: bool) -> None:
    x = torch.randn(2, 4, 3, 4 if part else 2, dtype=torch.float64)[..., :2].requires_grad_()
    assert torch.autograd.gradcheck(largest, x)
    assert torch.autograd.gradgradcheck(largest, x)


def test_it_steps_aside_inside_transforms_and_where_paths_are_off() -> None:
    x = torch.randn(3, 2, 4, 3, 2, requires_grad=True)
    assert torch.equal(torch.func.vmap(largest)(x), x.amax(2))
    value, tangent = torch.func.jvp(largest, (x[0].detach(),), (torch.ones(2, 4, 3, 2),))
    assert torch.equal(value, x[0].amax(1))
    assert torch.equal(tangent, torch.ones_like(value))
    with forced([]):
        assert torch.equal(largest(x[0]), x[0].amax(1))
    assert largest(x[0].detach()).grad_fn is None


def test_marks_of_a_byte_are_kept_in_place_of_numbers() -> None:
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.nbytes) or x, lambda x: x):
        largest(torch.randn(5, 4, 3, 8, requires_grad=True))
    assert kept == [5 * 4 * 3 * 8]
