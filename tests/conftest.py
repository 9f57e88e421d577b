"""Shared by all tests: few threads and no network, so that a run is the same everywhere."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Start each test from the same random state."""
    torch.manual_seed(0)
