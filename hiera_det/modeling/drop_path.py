"""Stochastic depth (Huang et al. 2016), per image."""

from __future__ import annotations

from torch import Tensor, nn

from hiera_det.modeling.fast.paths import own

__all__ = ["DropPath"]


@own
class DropPath(nn.Module):
    """Drop a residual branch for a random part of the images and scale the rest up; nothing in evaluation.

    Args:
        rate: probability that an image's branch is dropped.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Branch ``[B, N, C]`` to a branch of the same shape."""
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        mask = x.new_empty(x.shape[0], 1, 1).bernoulli_(keep).div_(keep or 1.0)
        return x * mask

    def extra_repr(self) -> str:
        """Show the rate in a printed model."""
        return f"rate={self.rate:.3f}"
