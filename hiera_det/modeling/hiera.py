"""The Hiera trunk (Ryali et al. 2023, "Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles").

Four stages at strides 4, 8, 16, 32; attention inside mask units in the first two and over the whole image, or in larger
windows, in the last two; queries max-pooled between stages. Parameters are named as in the authors' files; SAM 2's
HieraDet, timm's variations and the video models are settings of the same trunk (`hiera_det.zoo`). Mask units
can be left out (`hiera_det.modeling.masking`). Letters: B images, T frames and H, W pixels unless said, N tokens per
image, C channels, k kept mask units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hiera_det.errors import InputError
from hiera_det.modeling.block import add_branch
from hiera_det.modeling.fast.linear import is_exporting
from hiera_det.modeling.masking import check_mask, gather_units, kept_units, unit_windows
from hiera_det.modeling.options import (
    FRAME_STRIDE,
    PATCH_STRIDE,
    POS_EMBEDS,
    STAGES,
    UNIT_SIDES,
    block_windows,
    build_blocks,
    check_depths,
    check_positions,
    check_units,
    check_windows,
    checkpoint_stages,
    common_window,
    stage_names,
    widths,
)
from hiera_det.modeling.position import (
    PositionCache,
    absolute_win_embed,
    resize_pos_embed,
    separable_embed,
    tile_pos_embed,
)
from hiera_det.modeling.tokens import UnitGrid, reroll, unroll

__all__ = ["FRAME_STRIDE", "PATCH_STRIDE", "POS_EMBEDS", "STAGES", "UNIT_SIDES", "Feature", "Hiera"]

#: Tokens of stage 1 that the local blocks take at a time on a CPU.
SLAB_TOKENS = 8192


@dataclass(frozen=True)
class Feature:
    """One output map: its name, its channels and its stride in pixels."""

    name: str
    channels: int
    stride: int


class PatchEmbed(nn.Module):
    """The stem: one convolution, kernel 7, stride 4, padding 3; for video 3, 2 and 1 in time besides."""

    def __init__(self, in_channels: int, embed_dim: int, video: bool) -> None:
        super().__init__()
        if video:
            self.proj: nn.Conv2d | nn.Conv3d = nn.Conv3d(
                in_channels, embed_dim, (3, 7, 7), stride=(FRAME_STRIDE, PATCH_STRIDE, PATCH_STRIDE), padding=(1, 3, 3)
            )
        else:
            self.proj = nn.Conv2d(in_channels, embed_dim, kernel_size=7, stride=PATCH_STRIDE, padding=3)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B, in_channels, H, W]`` to a map ``[B, C, H/4, W/4]``; clips to ``[B, C, T/2, H/4, W/4]``."""
        return self.proj(images)

    def forward_windows(self, windows: Tensor) -> Tensor:
        """What mask units see, as of `unit_windows`, to their maps ``[B * k, C, unit, unit]``.

        A clip's unit is one token thick, so that its frames are channels to the convolution.
        """
        weight = self.proj.weight.flatten(1, -3)
        return nn.functional.conv2d(windows.flatten(1, -3), weight, self.proj.bias, stride=PATCH_STRIDE)


class Hiera(nn.Module):
    """The trunk: images to stage maps.

    Args:
        embed_dim: channels of stage 1; times ``dim_mul`` per stage.
        num_heads: attention heads of stage 1, which double per stage; or those of stages 1-4.
        depths: blocks in stages 1-4.
        out_features: the stages to return, any subset of ``stage1`` ... ``stage4`` or of their numbers 1 ... 4, in the
            order wanted. Stages after the last one asked for are not built, so that every parameter gets a gradient.
        in_channels: channels of the images.
        mlp_ratio: hidden width of the MLPs over their channels.
        drop_path_rate: stochastic depth, 0 at the first block and this at the last.
        pretrain_size: image side, or height and width, in pixels that the position embedding is learned at.
        use_checkpoint: recompute each block in the backward pass instead of keeping its activations; or the stages
            whose blocks are recomputed, such as ``("stage1", "stage2")``, where most of the memory is.
        pos_embed: ``interpolate`` for one table that is resampled, ``tile`` for one that is repeated, ``absolute_win``
            for a part that repeats with the mask unit plus a resampled one (see `hiera_det.modeling.position`).
        pos_grid: height and width in tokens of the resampled part of ``absolute_win``.
        pos_antialias: resample that part with antialiasing, as timm's weights expect; SAM 2's expect none.
        window_size: sides of the attention windows of stages 1-4 in tokens, multiples of the mask unit's at that
            stage, 0 for global attention; None for mask units in stages 1 and 2 and global attention after. The first
            block of a stage attends as the stage before, then pools.
        global_blocks: blocks, counted from 0 over all stages, that attend globally whatever their stage's window.
        window_padding: what windows that reach over the image's edge do with the missing tokens: ``zero`` attends to
            them, as SAM 2's weights expect; ``mask`` leaves them out.
        layer_scale: scale the residual branches by learned factors.
        project_shortcut: see `HieraBlock`.
        frames: length in frames of the clips that a video trunk's position embedding is learned at; 0 for images.
        dim_mul: channels of a stage over those of the stage before.
        q_pool: how many of the three transitions between stages pool, the first ones; 2 in the authors' MAE models,
            whose stage 4 keeps the size of stage 3.
        q_stride: side of the square of tokens that a pooling makes one.
        mask_unit_size: side of a mask unit in tokens of stage 1, a multiple of ``q_stride ** q_pool``. Height and width
            of images must be multiples of 4 times it.

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
        num_heads: int | Sequence[int],
        depths: Sequence[int],
        *,
        out_features: Sequence[str | int] = STAGES,
        in_channels: int = 3,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        pretrain_size: int | Sequence[int] = 224,
        use_checkpoint: bool | Sequence[str] = False,
        pos_embed: str = "interpolate",
        pos_grid: Sequence[int] = (7, 7),
        pos_antialias: bool = False,
        window_size: Sequence[int] | None = None,
        global_blocks: Sequence[int] = (),
        window_padding: str = "zero",
        layer_scale: bool = False,
        project_shortcut: bool = True,
        frames: int = 0,
        dim_mul: float = 2.0,
        q_pool: int = len(STAGES) - 1,
        q_stride: int = 2,
        mask_unit_size: int = UNIT_SIDES[0],
    ) -> None:
        super().__init__()
        self.out_features = stage_names(out_features)
        check_depths(depths, drop_path_rate)
        dims, heads = widths(embed_dim, num_heads, dim_mul, project_shortcut)
        check_units(q_pool, q_stride, mask_unit_size)
        #: Side in tokens of stage 1 of what is one token in stages 1-4, and side of a mask unit in tokens there.
        self.token_strides = tuple(q_stride ** min(stage, q_pool) for stage in range(len(STAGES)))
        self.unit_sides = tuple(mask_unit_size // stride for stride in self.token_strides)
        if window_size is None:
            window_size = (*self.unit_sides[:2], 0, 0)
        check_positions(pretrain_size, pos_embed, pos_grid, frames)
        check_windows(depths, window_size, self.unit_sides, global_blocks, window_padding, frames)
        self.in_channels = in_channels
        self.checkpoint_stages = checkpoint_stages(use_checkpoint)
        self.q_pool = q_pool
        left = self.unit_sides[-1]
        #: How a mask unit's tokens are nested: by the poolings, then by the tokens that these leave of it.
        self.unit_strides = ((q_stride, q_stride),) * q_pool + (((left, left),) if left > 1 else ())
        self.size_divisibility = PATCH_STRIDE * mask_unit_size
        self.frames = frames
        self.pos_mode = pos_embed
        self.pos_antialias = pos_antialias
        self.depths = tuple(depths)

        last_stage = max(STAGES.index(name) for name in self.out_features)
        self.stage_ends = tuple(sum(depths[: i + 1]) - 1 for i in range(last_stage + 1))
        self.feature_info = tuple(
            Feature(name, dims[stage], PATCH_STRIDE * self.token_strides[stage])
            for name in self.out_features
            for stage in [STAGES.index(name)]
        )
        self.patch_embed = PatchEmbed(in_channels, embed_dim, video=frames > 0)
        self.pretrain_size = (pretrain_size, pretrain_size) if isinstance(pretrain_size, int) else tuple(pretrain_size)
        self._build_positions(embed_dim, pos_grid)
        windows = block_windows(depths, window_size, self.unit_sides, global_blocks)
        #: Side in units of the squares of units that are kept together, so that windows of that size are views.
        self.unit_group = common_window(windows[: self.stage_ends[-1] + 1])
        #: Side in units of the largest attention window; 1 is the mask unit, 0 the whole image.
        self.largest_window = max(windows[: self.stage_ends[-1] + 1])
        options = {
            "mask_padding": window_padding == "mask",
            "layer_scale": layer_scale,
            "project_shortcut": project_shortcut,
        }
        blocks = build_blocks(
            dims, heads, depths, mlp_ratio, drop_path_rate, windows, self.token_strides, mask_unit_size, options
        )
        self.blocks = nn.ModuleList(blocks[: self.stage_ends[-1] + 1])
        #: Leading blocks that attend inside mask units only.
        self.local_blocks = next((i for i, window in enumerate(windows) if window != 1), len(windows))
        self.local_blocks = min(self.local_blocks, len(self.blocks))
        self._positions = PositionCache()
        self.reset_parameters()

    def _build_positions(self, embed_dim: int, pos_grid: Sequence[int]) -> None:
        """Add the parameters of the position embedding."""
        height, width = self.pretrain_size
        self.pos_grid = (height // PATCH_STRIDE, width // PATCH_STRIDE)
        if self.pos_mode == "absolute_win":
            self.pos_grid = (pos_grid[0], pos_grid[1])
            self.pos_embed = nn.Parameter(torch.zeros(1, embed_dim, *self.pos_grid))
            self.pos_embed_window = nn.Parameter(torch.zeros(1, embed_dim, self.unit_sides[0], self.unit_sides[0]))
        elif self.frames:
            self.pos_embed_spatial = nn.Parameter(torch.zeros(1, math.prod(self.pos_grid), embed_dim))
            self.pos_embed_temporal = nn.Parameter(torch.zeros(1, self.frames // FRAME_STRIDE, embed_dim))
        else:
            self.pos_embed = nn.Parameter(torch.zeros(1, math.prod(self.pos_grid), embed_dim))

    def _position_parameters(self) -> dict[str, nn.Parameter]:
        """The position embedding's parameters by name."""
        named = self._parameters.items()
        return {name: parameter for name, parameter in named if parameter is not None and name.startswith("pos_embed")}

    def position_grids(self) -> dict[str, tuple[int, int]]:
        """Height and width in tokens of the tables, by their parameters' names, that can be resampled on loading."""
        resampled = ("pos_embed", "pos_embed_spatial")
        return {name: self.pos_grid for name in self._position_parameters() if name in resampled}

    def reset_parameters(self) -> None:
        """Initialise as the authors do: truncated normal 0.02 for weights, 0.02 for linear and norm biases."""
        for parameter in self._position_parameters().values():
            nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
                nn.init.trunc_normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear | nn.LayerNorm):
                nn.init.constant_(module.bias, 0.02)
            if isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay should leave alone, besides norms."""
        return set(self._position_parameters())

    def forward(self, images: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the stage maps, or those of some mask units.

        Without gradients, blocks add and apply GELU in place where the buffer is their own: a forward hook that keeps
        the output of a block or a norm is safe, one that keeps that of ``attn``, ``mlp`` or a linear layer must clone.

        Args:
            images: ``[B, in_channels, H, W]``, normalised; H and W multiples of 32. For a video trunk clips
                ``[B, in_channels, T, H, W]``, T even.
            mask: ``[B, units]`` of bool, true for the mask units to keep, as many in each image, units in the order of
                frames, rows and columns; the others are dropped before the first block, and nothing of them is seen.
                None keeps all.

        Returns:
            dict from stage name to map ``[B, C, H/s, W/s]``, for clips ``[B, C, T/2, H/s, W/s]``, in the order of
            ``out_features``; the maps lie in memory channels-last, as the tokens do. With a mask, the maps of the k
            kept units in ascending order, ``[B, k, C, unit, unit]``, where unit is 8, 4, 2, 1 tokens in stages 1-4.

        Raises:
            InputError: H or W is not a multiple of 32, the channels are not ``in_channels``, or the mask does not fit.
        """
        self._check_images(images)
        if mask is not None:
            self.check_maskable()
            check_mask(mask, len(images), self.unit_grid(images))
            return self._forward_kept(images, mask.to(images.device), kept_units(mask).to(images.device))
        if torch.compiler.is_compiling():
            images = _in_units(images, self.size_divisibility)
        x, size, grid = self._embed(images)
        maps: dict[str, Tensor] = {}
        done = 0
        if self._slabs_pay(x):
            x, done = self._run_in_slabs(x, size, grid, maps), self.local_blocks
        for i in range(done, len(self.blocks)):
            stage = self._stage_of(i)
            if STAGES[stage] in self.checkpoint_stages and torch.is_grad_enabled():
                x = checkpoint(self.blocks[i], x, grid, use_reentrant=False)
            else:
                x = self.blocks[i](x, grid)
            if i == self.stage_ends[stage] and STAGES[stage] in self.out_features:
                maps[STAGES[stage]] = self._to_map(x, size, stage, grid.group)
        return {name: maps[name] for name in self.out_features}

    def _forward_kept(self, images: Tensor, mask: Tensor, kept: Tensor) -> dict[str, Tensor]:
        """`forward` with a mask: the same blocks on the tokens of the kept units, whose numbers are ``kept``."""
        x, grid = self._embed_kept(images, mask, kept)
        units: dict[str, Tensor] = {}
        for i, block in enumerate(self.blocks):
            stage = self._stage_of(i)
            if STAGES[stage] in self.checkpoint_stages and torch.is_grad_enabled():
                x = checkpoint(block, x, grid, use_reentrant=False)
            else:
                x = block(x, grid)
            if i == self.stage_ends[stage] and STAGES[stage] in self.out_features:
                units[STAGES[stage]] = self._to_units(x, stage)
        return {name: units[name] for name in self.out_features}

    def _stage_of(self, block: int) -> int:
        """The stage, counted from 0, that a block belongs to."""
        return next(stage for stage, end in enumerate(self.stage_ends) if block <= end)

    def _slabs_pay(self, x: Tensor) -> bool:
        """Whether to run the local blocks slab by slab: on a CPU, where nobody looks at the whole of what is between.

        Stochastic depth is drawn per image, and a hook expects all tokens at once.
        """
        if torch.compiler.is_compiling() or is_exporting() or torch.is_grad_enabled():
            return False
        if self.training or x.device.type != "cpu" or not self.local_blocks:
            return False
        local = (self.blocks[i] for i in range(self.local_blocks))
        return not any(m._forward_hooks or m._forward_pre_hooks for block in local for m in block.modules())

    def _run_in_slabs(self, x: Tensor, size: tuple[int, ...], grid: UnitGrid, maps: dict[str, Tensor]) -> Tensor:
        """Run the leading blocks that attend inside mask units on some rows of units at a time, all blocks on each.

        No token looks beyond its unit there, so that the result is the same; the buffers stay in the cache and are
        used again, where the whole image's would be fetched anew from the system by every layer.

        Args:
            x: tokens ``[B, N, C]``, as embedded.
            size: the map's size in tokens.
            grid: the order of the tokens.
            maps: the stage maps reached on the way are put there.

        Returns:
            tokens after the last local block.
        """
        batch = x.shape[0]
        slabs = x.view(-1, grid.group * grid.cols * self.unit_sides[0] ** 2, x.shape[-1])
        outputs: dict[int, Tensor] = {}
        for start in range(0, len(slabs), per := max(1, SLAB_TOKENS // slabs.shape[1])):
            slab = slabs[start : start + per]
            part = slab.flatten(0, 1).unsqueeze(0)
            for i in range(self.local_blocks):
                part = self.blocks[i](part, grid)
                stage = self._stage_of(i)
                wanted = i == self.stage_ends[stage] and STAGES[stage] in self.out_features
                if wanted or i == self.local_blocks - 1:
                    outputs.setdefault(i, part.new_empty(len(slabs), part.shape[1] // len(slab), part.shape[2]))
                    outputs[i][start : start + per] = part.view(len(slab), -1, part.shape[2])
        for i, tokens in outputs.items():
            stage = self._stage_of(i)
            if i == self.stage_ends[stage] and STAGES[stage] in self.out_features:
                maps[STAGES[stage]] = self._to_map(tokens.view(batch, -1, tokens.shape[-1]), size, stage, grid.group)
        return outputs[self.local_blocks - 1].view(batch, -1, part.shape[-1])

    def _embed(self, images: Tensor) -> tuple[Tensor, tuple[int, ...], UnitGrid]:
        """Images to tokens ``[B, N, C]`` with their position embedding, the map's size in tokens, and their order."""
        patches = self.patch_embed(images)
        size = tuple(patches.shape[2:])
        rows, cols = size[-2] // self.unit_sides[0], size[-1] // self.unit_sides[0]
        grid = UnitGrid(rows, cols, self._group_of(rows, cols))
        positions = self._position_tokens(size, grid.group)
        patches = patches.movedim(1, -1)
        if self.frames:
            patches = patches.flatten(0, 1)  # a mask unit is one frame thick: frames unroll like images
        x = unroll(patches, self.unit_strides, grid.group).contiguous().view(images.shape[0], -1, patches.shape[-1])
        return add_branch(positions, x), size, grid

    def _embed_kept(self, images: Tensor, mask: Tensor, kept: Tensor) -> tuple[Tensor, UnitGrid]:
        """Images to the tokens ``[B, k * t, C]`` of the kept mask units, and how all units lie."""
        units = self.unit_grid(images)
        thickness = FRAME_STRIDE if self.frames else 0
        windows = unit_windows(images, mask, kept, self.size_divisibility, thickness)
        patches = self.patch_embed.forward_windows(windows).movedim(1, -1)
        x = unroll(patches, self.unit_strides).contiguous().view(len(images), -1, patches.shape[-1])
        size = *units[:-2], units[-2] * self.unit_sides[0], units[-1] * self.unit_sides[0]
        positions = gather_units(self._position_tokens(size, 1), kept, self.unit_sides[0] ** 2)
        return add_branch(positions, x), UnitGrid(units[-2], units[-1], 1)

    def unit_grid(self, images: Tensor) -> tuple[int, ...]:
        """Mask units of images or clips: rows and columns, for clips frames of tokens before them."""
        frames = (images.shape[2] // FRAME_STRIDE,) if self.frames else ()
        return *frames, *(side // self.size_divisibility for side in images.shape[-2:])

    def check_maskable(self) -> None:
        """Refuse masks where attention windows need units that a mask drops.

        Raises:
            InputError: some block attends in windows of several mask units.
        """
        if self.largest_window > 1:
            raise InputError(
                f"mask: attention windows of {self.largest_window}x{self.largest_window} mask units need them all; "
                "build the trunk with window_size=None for mask units and global attention"
            )

    def _position_tokens(self, size: tuple[int, ...], group: int) -> Tensor:
        """The position embedding ``[1, N, C]`` in the tokens' order, for a map of ``size`` tokens."""
        return self._positions.tokens(
            tuple(self._position_parameters().values()),
            (*size, group),
            lambda: unroll(self._make_positions(size), self.unit_strides, group),
        )

    def _group_of(self, rows: int, cols: int) -> int:
        """The group of the token order: the windows', where they divide the image; compiled, one order for all."""
        if self.unit_group == 1 or torch.compiler.is_compiling():
            return 1
        return 1 if rows % self.unit_group or cols % self.unit_group else self.unit_group

    def _make_positions(self, size: tuple[int, ...]) -> Tensor:
        """The position embedding ``[T or 1, H, W, C]`` for a map of ``size`` tokens."""
        height, width = size[-2:]
        if self.pos_mode == "absolute_win":
            return absolute_win_embed(self.pos_embed, self.pos_embed_window, (height, width), self.pos_antialias)
        if self.frames:
            spatial, temporal = self.pos_embed_spatial, self.pos_embed_temporal
            return separable_embed(spatial, temporal, self.pos_grid, size[0], (height, width))
        if self.pos_mode == "tile":
            return tile_pos_embed(self.pos_embed, self.pos_grid, (height, width))
        return resize_pos_embed(self.pos_embed, self.pos_grid, (height, width))

    def _to_map(self, x: Tensor, size: tuple[int, ...], stage: int, group: int) -> Tensor:
        """A stage's tokens as a map, channels first."""
        stride = self.token_strides[stage]
        maps = reroll(x, (size[-2] // stride, size[-1] // stride), self._strides_left(stage), group)
        return maps.view(x.shape[0], *size[:-2], *maps.shape[1:]).movedim(-1, 1)

    def _to_units(self, x: Tensor, stage: int) -> Tensor:
        """A stage's tokens as maps of their mask units ``[B, k, C, unit, unit]``."""
        side = self.unit_sides[stage]
        units = reroll(x.reshape(-1, side * side, x.shape[-1]), (side, side), self._strides_left(stage))
        return units.view(x.shape[0], -1, *units.shape[1:]).movedim(-1, 2)

    def _strides_left(self, stage: int) -> tuple[tuple[int, int], ...]:
        """The nesting of a mask unit's tokens after a stage."""
        return self.unit_strides[min(stage, self.q_pool) :]

    def _check_images(self, images: Tensor) -> None:
        """Refuse images that the trunk cannot take."""
        shape = f"[B, {self.in_channels}, {'T, ' if self.frames else ''}H, W]"
        if images.ndim != (5 if self.frames else 4) or images.shape[1] != self.in_channels:
            raise InputError(f"images {list(images.shape)}: expected {shape}")
        if self.frames and (images.shape[2] % FRAME_STRIDE or not images.shape[2]):
            raise InputError(f"clip of {images.shape[2]} frames: the number must be a multiple of {FRAME_STRIDE}")
        height, width = images.shape[-2:]
        step = self.size_divisibility
        for side, pixels in (("height", height), ("width", width)):
            if pixels % step or not pixels:
                pad_to = max(1, math.ceil(pixels / step)) * step
                raise InputError(
                    f"image {height}x{width}: {side} must be a multiple of {step}; "
                    f"pad to {pad_to} or use HieraBackbone, which pads"
                )


def _in_units(images: Tensor, side: int) -> Tensor:
    """The same images, their height and width written as multiples of a mask unit.

    With dynamic sizes a compiler carries them through every shape; as products they cancel, as quotients of quotients
    (what the stem's convolution makes of them) it takes minutes to see that two are equal.
    """
    rows, cols = images.shape[-2] // side, images.shape[-1] // side
    return images.new_empty(*images.shape[:-2], rows * side, cols * side).copy_(images)
