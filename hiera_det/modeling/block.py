"""The transformer block of Hiera (Ryali et al. 2023, section 3 and Figure 5), and SAM 2's and timm's variations of it.

Letters: B images, N tokens per image, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hiera_det.modeling.attention import MaskUnitAttention
from hiera_det.modeling.drop_path import DropPath
from hiera_det.modeling.fast.in_place import add_branch, gelu
from hiera_det.modeling.fast.linear import linear
from hiera_det.modeling.fast.paths import own
from hiera_det.modeling.fast.recompute import recomputed
from hiera_det.modeling.tokens import UnitGrid, average_tokens, pool_tokens

__all__ = ["HieraBlock", "LayerScale", "Mlp"]

NORM_EPS = 1e-6
#: Start of the learned scale of a branch: small, so that a deep trunk starts near the identity.
LAYER_SCALE_INIT = 1e-5


@own
class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them, which the backward pass keeps or computes anew."""

    def __init__(self, dim: int, hidden_dim: int, recompute_gelu: bool = False) -> None:
        super().__init__()
        self.recompute_gelu = recompute_gelu
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``[B, N, C]`` to tokens of the same shape."""
        return recomputed(self._activate_and_project, self.recompute_gelu, linear(self.fc1, x))

    def _activate_and_project(self, hidden: Tensor) -> Tensor:
        return linear(self.fc2, gelu(hidden, self.fc1))


@own
class LayerScale(nn.Module):
    """A learned factor per channel on a residual branch (Touvron et al. 2021, "Going deeper with transformers")."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start near the identity."""
        nn.init.constant_(self.gamma, LAYER_SCALE_INIT)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``[B, N, C]`` to tokens of the same shape."""
        return x * self.gamma


@own
class HieraBlock(nn.Module):
    """A transformer block; the first of a stage widens the channels and pools the tokens.

    Args:
        dim: input channels.
        dim_out: output channels; where it differs from ``dim`` the shortcut is widened and pooled.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLP over ``dim_out``.
        drop_path: probability of dropping a residual branch, per image.
        unit_tokens: tokens per mask unit at the input.
        q_stride: flattened stride of the q-pool, 1 for none.
        window: side of the attention window in mask units; 1 is the unit itself, 0 the whole image.
        layer_scale: scale both branches by learned factors.
        mask_padding: see `MaskUnitAttention`.
        project_shortcut: widen the shortcut by a linear layer on the normed input, then max-pool it; otherwise the
            input's maximum and mean are put side by side, which doubles the channels without one (timm's
            ``use_expand_proj=False``).
        recompute_gelu: see `Mlp`.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        num_heads: int,
        mlp_ratio: float,
        drop_path: float,
        unit_tokens: int,
        q_stride: int,
        window: int,
        mask_padding: bool = False,
        layer_scale: bool = False,
        project_shortcut: bool = True,
        recompute_gelu: bool = False,
    ) -> None:
        super().__init__()
        self.unit_tokens = unit_tokens
        self.q_stride = q_stride
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = MaskUnitAttention(dim, dim_out, num_heads, unit_tokens, q_stride, window, mask_padding)
        self.ls1 = LayerScale(dim_out) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim_out, eps=NORM_EPS)
        self.mlp = Mlp(dim_out, int(dim_out * mlp_ratio), recompute_gelu)
        self.ls2 = LayerScale(dim_out) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path)
        self.widens = dim != dim_out
        self.proj = nn.Linear(dim, dim_out) if self.widens and project_shortcut else None

    def forward(self, x: Tensor, grid: UnitGrid) -> Tensor:
        """Tokens ``[B, N, dim]`` to tokens ``[B, N / q_stride, dim_out]``, both mask-unit-major.

        ``grid`` says how the image's mask units lie.
        """
        normed = self.norm1(x)
        if self.widens:
            x = self._shortcut(x, normed)
        branch = self.drop_path(self.ls1(self.attn(normed, grid)))
        x = add_branch(x, branch, self.attn, self.ls1, self.drop_path)
        branch = self.drop_path(self.ls2(self.mlp(self.norm2(x))))
        return add_branch(x, branch, self.mlp, self.ls2, self.drop_path)

    def _shortcut(self, x: Tensor, normed: Tensor) -> Tensor:
        """The residual, widened and pooled."""
        if self.proj is None:
            pooled = pool_tokens(x, self.unit_tokens, self.q_stride)
            return torch.cat([pooled, average_tokens(x, self.unit_tokens, self.q_stride)], dim=-1)
        x = linear(self.proj, normed)
        return pool_tokens(x, self.unit_tokens, self.q_stride) if self.q_stride > 1 else x
