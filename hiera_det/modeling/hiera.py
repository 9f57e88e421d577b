"""The Hiera trunk (Ryali et al. 2023, "Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles").

Four stages at strides 4, 8, 16, 32; attention inside mask units in the first two and over the whole image in the last
two; queries max-pooled between stages. Parameters are named as in the authors' files. Letters: B images, H and W in
pixels unless said, N tokens per image, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hiera_det.errors import InputError
from hiera_det.modeling.attention import MaskUnitAttention
from hiera_det.modeling.drop_path import DropPath
from hiera_det.modeling.linear import TokenLinear
from hiera_det.modeling.position import PositionCache
from hiera_det.modeling.tokens import pool_tokens, reroll, unroll
from hiera_det.modeling.variants import get_variant

__all__ = [
    "Feature",
    "Hiera",
    "build_hiera",
    "hiera_base",
    "hiera_base_plus",
    "hiera_huge",
    "hiera_large",
    "hiera_small",
    "hiera_tiny",
]

STAGES = ("stage1", "stage2", "stage3", "stage4")
PATCH_STRIDE = 4
Q_STRIDE = (2, 2)
NORM_EPS = 1e-6


@dataclass(frozen=True)
class Feature:
    """One output map: its name, its channels and its stride in pixels."""

    name: str
    channels: int
    stride: int


class PatchEmbed(nn.Module):
    """The stem: one convolution, kernel 7, stride 4, padding 3."""

    def __init__(self, in_channels: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dim, kernel_size=7, stride=PATCH_STRIDE, padding=3)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B, in_channels, H, W]`` to a map ``[B, C, H/4, W/4]``."""
        return self.proj(images)


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = TokenLinear(dim, hidden_dim)
        self.fc2 = TokenLinear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``[B, N, C]`` to tokens of the same shape."""
        x = self.fc1(x)
        # In place where autograd allows it: a fresh buffer of this size costs more than the GELU itself.
        x = nn.functional.gelu(x) if torch.is_grad_enabled() else torch.ops.aten.gelu_(x)
        return self.fc2(x)


def _add_branch(x: Tensor, branch: Tensor) -> Tensor:
    """Residual sum ``x + branch``; into the branch where autograd and autocast allow it.

    Never into ``x``: that is the previous block's output, which a forward hook may have kept.
    """
    if torch.is_grad_enabled() or x.dtype != branch.dtype:
        return x + branch
    return branch.add_(x)


class HieraBlock(nn.Module):
    """A transformer block; the first of a stage widens the channels and pools the tokens.

    Args:
        dim: input channels.
        dim_out: output channels; where it differs from ``dim`` the shortcut is projected and pooled.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLP over ``dim_out``.
        drop_path: probability of dropping a residual branch, per image.
        unit_tokens: tokens per mask unit at the input.
        q_stride: flattened stride of the q-pool, 1 for none.
        use_mask_unit_attn: attention inside mask units instead of global.
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
        use_mask_unit_attn: bool,
    ) -> None:
        super().__init__()
        self.unit_tokens = unit_tokens
        self.q_stride = q_stride
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = MaskUnitAttention(dim, dim_out, num_heads, unit_tokens, q_stride, use_mask_unit_attn)
        self.norm2 = nn.LayerNorm(dim_out, eps=NORM_EPS)
        self.mlp = Mlp(dim_out, int(dim_out * mlp_ratio))
        self.drop_path = DropPath(drop_path)
        self.proj = TokenLinear(dim, dim_out) if dim != dim_out else None

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``[B, N, dim]`` to tokens ``[B, N / q_stride, dim_out]``, both mask-unit-major."""
        normed = self.norm1(x)
        if self.proj is not None:
            x = self.proj(normed)
            if self.q_stride > 1:
                x = pool_tokens(x, self.unit_tokens, self.q_stride)
        x = _add_branch(x, self.drop_path(self.attn(normed)))
        return _add_branch(x, self.drop_path(self.mlp(self.norm2(x))))


class Hiera(nn.Module):
    """The trunk: images to stage maps.

    Args:
        embed_dim: channels of stage 1; doubles per stage.
        num_heads: attention heads of stage 1; doubles per stage.
        depths: blocks in stages 1-4.
        out_features: the stages to return, any subset of ``stage1`` ... ``stage4``, in the order wanted. Stages after
            the last one asked for are not built, so that every parameter gets a gradient.
        in_channels: channels of the images.
        mlp_ratio: hidden width of the MLPs over their channels.
        drop_path_rate: stochastic depth, 0 at the first block and this at the last.
        pretrain_size: image side in pixels that the position embedding is learned at.
        use_checkpoint: recompute each block in the backward pass instead of keeping its activations.

    Raises:
        InputError: a value that cannot be used, named with the choices.

    Example:
        >>> import torch
        >>> from hiera_det import hiera_tiny
        >>> trunk = hiera_tiny(out_features=("stage1", "stage4"))
        >>> {name: tuple(map.shape) for name, map in trunk(torch.zeros(1, 3, 64, 96)).items()}
        {'stage1': (1, 96, 16, 24), 'stage4': (1, 768, 2, 3)}
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        depths: Sequence[int],
        *,
        out_features: Sequence[str] = STAGES,
        in_channels: int = 3,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        pretrain_size: int = 224,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        _check_arguments(embed_dim, num_heads, depths, out_features, drop_path_rate, pretrain_size)
        self.out_features = tuple(out_features)
        self.in_channels = in_channels
        self.use_checkpoint = use_checkpoint
        self.q_strides = (Q_STRIDE,) * (len(STAGES) - 1)
        self.pos_grid = (pretrain_size // PATCH_STRIDE, pretrain_size // PATCH_STRIDE)
        self.size_divisibility = PATCH_STRIDE * math.prod(y for y, _ in self.q_strides)

        last_stage = max(STAGES.index(name) for name in self.out_features)
        self.stage_ends = tuple(sum(depths[: i + 1]) - 1 for i in range(last_stage + 1))
        self.feature_info = tuple(
            Feature(name, embed_dim << STAGES.index(name), PATCH_STRIDE << STAGES.index(name))
            for name in self.out_features
        )
        self.patch_embed = PatchEmbed(in_channels, embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, math.prod(self.pos_grid), embed_dim))
        self.blocks = nn.ModuleList(
            _build_blocks(embed_dim, num_heads, depths, mlp_ratio, drop_path_rate)[: self.stage_ends[-1] + 1]
        )
        self._positions = PositionCache()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the authors do: truncated normal 0.02 for weights, 0.02 for linear and norm biases."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear | nn.LayerNorm):
                nn.init.constant_(module.bias, 0.02)
            if isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay should leave alone, besides norms."""
        return {"pos_embed"}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the stage maps.

        Without gradients, blocks add and apply GELU in place where the buffer is their own: a forward hook that keeps
        the output of a block or a norm is safe, one that keeps that of ``attn``, ``mlp`` or a linear layer must clone.

        Args:
            images: ``[B, in_channels, H, W]``, normalised; H and W multiples of 32.

        Returns:
            dict from stage name to map ``[B, C, H/s, W/s]`` in the order of ``out_features``; the maps lie in memory
            channels-last, as the tokens do.

        Raises:
            InputError: H or W is not a multiple of 32, or the channels are not ``in_channels``.
        """
        self._check_images(images)
        x, size = self._embed(images)
        maps: dict[str, Tensor] = {}
        stage = 0
        for i, block in enumerate(self.blocks):
            if self.use_checkpoint and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
            if i == self.stage_ends[stage]:
                if STAGES[stage] in self.out_features:
                    stage_size = (size[0] >> stage, size[1] >> stage)
                    maps[STAGES[stage]] = reroll(x, stage_size, self.q_strides[stage:]).permute(0, 3, 1, 2)
                stage += 1
        return {name: maps[name] for name in self.out_features}

    def _embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images to tokens ``[B, N, C]`` with their position embedding, and the map's size in tokens."""
        patches = self.patch_embed(images)
        size = (patches.shape[2], patches.shape[3])
        positions = self._positions.tokens(self.pos_embed, self.pos_grid, size, self.q_strides)
        x = unroll(patches.permute(0, 2, 3, 1), self.q_strides).view(images.shape[0], -1, patches.shape[1])
        return x + positions, size

    def _check_images(self, images: Tensor) -> None:
        """Refuse images that the trunk cannot take."""
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise InputError(f"images {list(images.shape)}: expected [B, {self.in_channels}, H, W]")
        height, width = images.shape[-2:]
        step = self.size_divisibility
        for side, pixels in (("height", height), ("width", width)):
            if pixels % step or not pixels:
                pad_to = max(1, math.ceil(pixels / step)) * step
                raise InputError(
                    f"image {height}x{width}: {side} must be a multiple of {step}; "
                    f"pad to {pad_to} or use HieraBackbone, which pads"
                )


def _check_arguments(
    embed_dim: int,
    num_heads: int,
    depths: Sequence[int],
    out_features: Sequence[str],
    drop_path_rate: float,
    pretrain_size: int,
) -> None:
    """Refuse a trunk that cannot be built."""
    unknown = [name for name in out_features if name not in STAGES]
    if isinstance(out_features, str) or unknown or not out_features or len(set(out_features)) != len(out_features):
        raise InputError(f"out_features {out_features!r}: give one or more of {', '.join(STAGES)}, each once")
    if len(depths) != len(STAGES) or any(depth < 1 for depth in depths):
        raise InputError(f"depths {tuple(depths)}: give four numbers of blocks, each at least 1")
    if num_heads < 1 or embed_dim < 1 or embed_dim % num_heads:
        raise InputError(f"embed_dim {embed_dim}: must be a positive multiple of num_heads {num_heads}")
    if not 0.0 <= drop_path_rate < 1.0:
        raise InputError(f"drop_path_rate {drop_path_rate}: must be at least 0 and below 1")
    if pretrain_size < 1 or pretrain_size % PATCH_STRIDE:
        raise InputError(f"pretrain_size {pretrain_size}: must be a positive multiple of {PATCH_STRIDE}")


def _build_blocks(
    embed_dim: int, num_heads: int, depths: Sequence[int], mlp_ratio: float, drop_path_rate: float
) -> list[HieraBlock]:
    """All blocks of the four stages.

    The first block of a stage pools and widens, and still attends as the stage before did (mask units or global).
    """
    rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
    pool = math.prod(Q_STRIDE)
    unit_tokens = pool ** (len(STAGES) - 1)
    dim = embed_dim
    blocks: list[HieraBlock] = []
    for stage, depth in enumerate(depths):
        for i in range(depth):
            pools = stage > 0 and i == 0
            attn_stage = stage - 1 if pools else stage
            dim_out = embed_dim << stage
            blocks.append(
                HieraBlock(
                    dim,
                    dim_out,
                    num_heads << stage,
                    mlp_ratio,
                    rates[len(blocks)],
                    unit_tokens,
                    pool if pools else 1,
                    use_mask_unit_attn=attn_stage < 2,
                )
            )
            dim = dim_out
            if pools:
                unit_tokens //= pool
    return blocks


def build_hiera(size: str, **overrides: object) -> Hiera:
    """Build the trunk of a published size.

    Args:
        size: ``tiny``, ``small``, ``base``, ``base_plus``, ``large`` or ``huge``.
        overrides: any argument of `Hiera`, the size's own fields included.

    Raises:
        InputError: unknown size, or a value that cannot be used.
    """
    variant = get_variant(size)
    fields: dict[str, object] = {
        "embed_dim": variant.embed_dim,
        "num_heads": variant.num_heads,
        "depths": variant.depths,
    }
    return Hiera(**(fields | overrides))  # type: ignore[arg-type]


def hiera_tiny(**overrides: object) -> Hiera:
    """Hiera-T: 27 M parameters. Keywords as in `Hiera`."""
    return build_hiera("tiny", **overrides)


def hiera_small(**overrides: object) -> Hiera:
    """Hiera-S: 34 M parameters. Keywords as in `Hiera`."""
    return build_hiera("small", **overrides)


def hiera_base(**overrides: object) -> Hiera:
    """Hiera-B: 51 M parameters. Keywords as in `Hiera`."""
    return build_hiera("base", **overrides)


def hiera_base_plus(**overrides: object) -> Hiera:
    """Hiera-B+: 69 M parameters. Keywords as in `Hiera`."""
    return build_hiera("base_plus", **overrides)


def hiera_large(**overrides: object) -> Hiera:
    """Hiera-L: 213 M parameters. Keywords as in `Hiera`."""
    return build_hiera("large", **overrides)


def hiera_huge(**overrides: object) -> Hiera:
    """Hiera-H: 671 M parameters. Keywords as in `Hiera`."""
    return build_hiera("huge", **overrides)
