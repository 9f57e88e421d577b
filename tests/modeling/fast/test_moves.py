"""Units moved by their numbers: what padding and reordering give, gradients of every order too, in fewer passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hiera_det.modeling.fast.paths import forced
from hiera_det.modeling.hiera import Hiera
from hiera_det.modeling.tokens import UnitGrid
from hiera_det.modeling.windows import join_windows, split_windows

CASES = [((4, 6), 2), ((3, 5), 2), ((1, 1), 2), ((7, 2), 3), ((5, 5), 3)]


def plain(function: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch, *args: object) -> Tensor:
    """By PyTorch's padding and reordering, as where paths are off."""
    with monkeypatch.context() as patch:
        patch.setattr("hiera_det.modeling.fast.paths.PLAIN", True)
        return function(*args)


@pytest.mark.parametrize(("units", "window"), CASES)
@pytest.mark.parametrize("function", [split_windows, join_windows])
def test_units_go_where_padding_and_reordering_take_them(
    function: Callable[..., Tensor], units: tuple[int, int], window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, inputs = UnitGrid(*units, 1, {}), torch.randn(2, units[0] * units[1] * 4, 6)
    x = (inputs if function is split_windows else split_windows(inputs, grid, window)).requires_grad_()
    got, expected = function(x, grid, window), plain(function, monkeypatch, x, grid, window)
    assert got.grad_fn.next_functions[0][0].name().endswith("WindowsBackward")
    assert torch.equal(got, expected)
    grad = torch.randn_like(got)
    assert torch.equal(torch.autograd.grad(got, x, grad)[0], torch.autograd.grad(expected, x, grad)[0])


@pytest.mark.parametrize(("units", "window"), CASES)
def test_derivatives_are_right(units: tuple[int, int], window: int) -> None:
    grid = UnitGrid(*units, 1, {})
    x = torch.randn(1, units[0] * units[1], 2, dtype=torch.float64, requires_grad=True)

    def bent(x: Tensor) -> Tensor:
        return join_windows(split_windows(x, grid, window).sin(), grid, window) ** 2

    assert torch.autograd.gradcheck(bent, x)
    assert torch.autograd.gradgradcheck(bent, x)


def test_transforms_take_pytorchs_operations() -> None:
    grid, x = UnitGrid(3, 2, 1, {}), torch.randn(3, 1, 6 * 4, 5)
    got = torch.func.vmap(lambda x: split_windows(x, grid, 2))(x)
    assert torch.equal(got[1], split_windows(x[1], grid, 2))
    _, tangent = torch.func.jvp(lambda x: split_windows(x, grid, 2), (x[0],), (x[0],))
    assert torch.equal(tangent, got[0])


def test_a_trunk_finds_the_moves_once_and_gives_the_same_where_paths_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    windows = {"window_size": (8, 4, 14, 7), "global_blocks": (4,)}
    trunk = Hiera(embed_dim=16, num_heads=1, depths=(1, 2, 4, 2), **windows).double()
    images = torch.randn(2, 3, 288, 352, dtype=torch.float64)

    def gradients() -> list[Tensor]:
        maps = trunk(images)
        return [*maps.values(), *torch.autograd.grad([map_.square().mean() for map_ in maps.values()], [*weights])]

    weights = [parameter for parameter in trunk.parameters() if parameter.requires_grad]
    asked = []
    arange = torch.arange
    monkeypatch.setattr(torch, "arange", lambda *a, **k: asked.append(a) or arange(*a, **k))
    with forced([]):
        got = gradients()
    assert len(asked) == 1
    for ours, theirs in zip(got, plain(gradients, monkeypatch), strict=True):
        assert (ours - theirs).abs().max() <= 1e-12 * max(1e-3, theirs.abs().max())
