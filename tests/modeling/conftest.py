"""Fixtures of the trunk's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from hiera_det.modeling.fast import paths


@pytest.fixture
def two_threads() -> Iterator[None]:
    """As many threads as it takes for convolutions to run in oneDNN."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fast_paths(two_threads: None) -> Iterator[None]:
    """Every path taken where it can be, whatever the processor."""
    cases = {paths.Case(path, dtype) for path in paths.Path for dtype in (torch.float32, torch.bfloat16)}
    with paths.forced(cases | {paths.Case(paths.Path.PRODUCT, torch.float32, gradients=True)}):
        yield
