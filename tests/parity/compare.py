"""Shared by the comparisons with other packages: random weights everywhere, and maps that must agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor, nn

from hiera_det.modeling.hiera import STAGES

INITIALISERS = ("trunc_normal_", "normal_", "uniform_", "kaiming_uniform_", "xavier_uniform_", "constant_")


def randomise(module: nn.Module) -> None:
    """Random values everywhere, so that no bias or norm hides behind its initial value."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            scale = "norm" in name and name.endswith("weight")
            parameter.normal_(mean=1.0 if scale else 0.0, std=0.5 if "pos" in name else 0.05)


@contextmanager
def uninitialised() -> Iterator[None]:
    """Build models without their own initialisation, which takes longer than the comparison; then `randomise`."""
    patches = [mock.patch(f"torch.nn.init.{name}", lambda tensor, *args, **kwargs: tensor) for name in INITIALISERS]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def assert_maps_equal(maps: dict[str, Tensor], expected: Sequence[Tensor]) -> None:
    """Each stage map, channels first, within 1e-5 of the map's largest value."""
    assert tuple(maps) == STAGES
    for name, theirs in zip(STAGES, expected, strict=True):
        assert maps[name].shape == theirs.shape, name
        assert torch.isfinite(theirs).all(), name
        torch.testing.assert_close(maps[name], theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())
