"""The Hiera trunk (Ryali et al. 2023, "Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles").

Four stages at strides 4, 8, 16, 32; attention inside mask units in the first two and over the whole image, or in larger
windows, in the last two; queries max-pooled between stages. Parameters are named as in the authors' files; SAM 2's
HieraDet, timm's variations and the video models are settings of the same trunk (`hiera_det.modeling.build`). Letters:
B images, T frames and H, W pixels unless said, N tokens per image, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hiera_det.errors import InputError
from hiera_det.modeling.block import HieraBlock, add_branch
from hiera_det.modeling.linear import is_exporting
from hiera_det.modeling.position import (
    PositionCache,
    absolute_win_embed,
    resize_pos_embed,
    separable_embed,
    tile_pos_embed,
)
from hiera_det.modeling.tokens import UnitGrid, reroll, unroll

__all__ = ["POS_EMBEDS", "STAGES", "Feature", "Hiera"]

STAGES = ("stage1", "stage2", "stage3", "stage4")
POS_EMBEDS = ("interpolate", "tile", "absolute_win")
WINDOW_PADDINGS = ("zero", "mask")
PATCH_STRIDE = 4
Q_STRIDE = (2, 2)
#: Side of a mask unit in tokens, in stages 1-4.
UNIT_SIDES = (8, 4, 2, 1)
#: Frames per token of a video trunk.
FRAME_STRIDE = 2
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
        pretrain_size: image side, or height and width, in pixels that the position embedding is learned at.
        use_checkpoint: recompute each block in the backward pass instead of keeping its activations; or the stages
            whose blocks are recomputed, such as ``("stage1", "stage2")``, where most of the memory is.
        pos_embed: ``interpolate`` for one table that is resampled, ``tile`` for one that is repeated, ``absolute_win``
            for a part that repeats with the mask unit plus a resampled one (see `hiera_det.modeling.position`).
        pos_grid: height and width in tokens of the resampled part of ``absolute_win``.
        pos_antialias: resample that part with antialiasing, as timm's weights expect; SAM 2's expect none.
        window_size: sides of the attention windows of stages 1-4 in tokens, 0 for global attention. The first block
            of a stage attends as the stage before, then pools.
        global_blocks: blocks, counted from 0 over all stages, that attend globally whatever their stage's window.
        window_padding: what windows that reach over the image's edge do with the missing tokens: ``zero`` attends to
            them, as SAM 2's weights expect; ``mask`` leaves them out.
        layer_scale: scale the residual branches by learned factors.
        project_shortcut: see `HieraBlock`.
        frames: length in frames of the clips that a video trunk's position embedding is learned at; 0 for images.

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
        pretrain_size: int | Sequence[int] = 224,
        use_checkpoint: bool | Sequence[str] = False,
        pos_embed: str = "interpolate",
        pos_grid: Sequence[int] = (7, 7),
        pos_antialias: bool = False,
        window_size: Sequence[int] = (8, 4, 0, 0),
        global_blocks: Sequence[int] = (),
        window_padding: str = "zero",
        layer_scale: bool = False,
        project_shortcut: bool = True,
        frames: int = 0,
    ) -> None:
        super().__init__()
        _check_sizes(embed_dim, num_heads, depths, out_features, drop_path_rate)
        _check_positions(pretrain_size, pos_embed, pos_grid, frames)
        _check_windows(depths, window_size, global_blocks, window_padding, frames)
        self.out_features = tuple(out_features)
        self.in_channels = in_channels
        self.checkpoint_stages = _checkpoint_stages(use_checkpoint)
        self.q_strides = (Q_STRIDE,) * (len(STAGES) - 1)
        self.size_divisibility = PATCH_STRIDE * UNIT_SIDES[0]
        self.frames = frames
        self.pos_mode = pos_embed
        self.pos_antialias = pos_antialias
        self.depths = tuple(depths)

        last_stage = max(STAGES.index(name) for name in self.out_features)
        self.stage_ends = tuple(sum(depths[: i + 1]) - 1 for i in range(last_stage + 1))
        self.feature_info = tuple(
            Feature(name, embed_dim << STAGES.index(name), PATCH_STRIDE << STAGES.index(name))
            for name in self.out_features
        )
        self.patch_embed = PatchEmbed(in_channels, embed_dim, video=frames > 0)
        self._build_positions(embed_dim, pretrain_size, pos_grid)
        windows = _block_windows(depths, window_size, global_blocks)
        #: Side in units of the squares of units that are kept together, so that windows of that size are views.
        self.unit_group = _common_window(windows[: self.stage_ends[-1] + 1])
        options = {
            "mask_padding": window_padding == "mask",
            "layer_scale": layer_scale,
            "project_shortcut": project_shortcut,
        }
        blocks = _build_blocks(embed_dim, num_heads, depths, mlp_ratio, drop_path_rate, windows, options)
        self.blocks = nn.ModuleList(blocks[: self.stage_ends[-1] + 1])
        #: Leading blocks that attend inside mask units only.
        self.local_blocks = next((i for i, window in enumerate(windows) if window != 1), len(windows))
        self.local_blocks = min(self.local_blocks, len(self.blocks))
        self._positions = PositionCache()
        self.reset_parameters()

    def _build_positions(self, embed_dim: int, pretrain_size: int | Sequence[int], pos_grid: Sequence[int]) -> None:
        """Add the parameters of the position embedding."""
        height, width = (pretrain_size, pretrain_size) if isinstance(pretrain_size, int) else pretrain_size
        self.pos_grid = (height // PATCH_STRIDE, width // PATCH_STRIDE)
        if self.pos_mode == "absolute_win":
            self.pos_grid = (pos_grid[0], pos_grid[1])
            self.pos_embed = nn.Parameter(torch.zeros(1, embed_dim, *self.pos_grid))
            self.pos_embed_window = nn.Parameter(torch.zeros(1, embed_dim, UNIT_SIDES[0], UNIT_SIDES[0]))
        elif self.frames:
            self.pos_embed_spatial = nn.Parameter(torch.zeros(1, math.prod(self.pos_grid), embed_dim))
            self.pos_embed_temporal = nn.Parameter(torch.zeros(1, self.frames // FRAME_STRIDE, embed_dim))
        else:
            self.pos_embed = nn.Parameter(torch.zeros(1, math.prod(self.pos_grid), embed_dim))

    def _position_parameters(self) -> dict[str, nn.Parameter]:
        """The position embedding's parameters by name."""
        return {name: parameter for name, parameter in self._parameters.items() if parameter is not None}

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

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the stage maps.

        Without gradients, blocks add and apply GELU in place where the buffer is their own: a forward hook that keeps
        the output of a block or a norm is safe, one that keeps that of ``attn``, ``mlp`` or a linear layer must clone.

        Args:
            images: ``[B, in_channels, H, W]``, normalised; H and W multiples of 32. For a video trunk clips
                ``[B, in_channels, T, H, W]``, T even.

        Returns:
            dict from stage name to map ``[B, C, H/s, W/s]``, for clips ``[B, C, T/2, H/s, W/s]``, in the order of
            ``out_features``; the maps lie in memory channels-last, as the tokens do.

        Raises:
            InputError: H or W is not a multiple of 32, or the channels are not ``in_channels``.
        """
        self._check_images(images)
        if torch.compiler.is_compiling():
            images = _in_units(images)
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

    def _stage_of(self, block: int) -> int:
        """The stage, counted from 0, that a block belongs to."""
        return next(stage for stage, end in enumerate(self.stage_ends) if block <= end)

    def _slabs_pay(self, x: Tensor) -> bool:
        """Whether to run the local blocks slab by slab: on a CPU, where nobody looks at the whole of what is between.

        Stochastic depth is drawn per image, and a hook expects all tokens at once.
        """
        if torch.compiler.is_compiling() or is_exporting() or torch.is_grad_enabled():
            return False
        if self.training or x.device.type != "cpu":
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
        slabs = x.view(-1, grid.group * grid.cols * UNIT_SIDES[0] ** 2, x.shape[-1])
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
        rows, cols = size[-2] // UNIT_SIDES[0], size[-1] // UNIT_SIDES[0]
        grid = UnitGrid(rows, cols, self._group_of(rows, cols))
        positions = self._positions.tokens(
            tuple(self._position_parameters().values()),
            (*size, grid.group),
            lambda: unroll(self._make_positions(size), self.q_strides, grid.group),
        )
        patches = patches.movedim(1, -1)
        if self.frames:
            patches = patches.flatten(0, 1)  # a mask unit is one frame thick: frames unroll like images
        x = unroll(patches, self.q_strides, grid.group).view(images.shape[0], -1, patches.shape[-1])
        return add_branch(positions, x), size, grid

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
        maps = reroll(x, (size[-2] >> stage, size[-1] >> stage), self.q_strides[stage:], group)
        return maps.view(x.shape[0], *size[:-2], *maps.shape[1:]).movedim(-1, 1)

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


def _in_units(images: Tensor) -> Tensor:
    """The same images, their height and width written as multiples of a mask unit.

    With dynamic sizes a compiler carries them through every shape; as products they cancel, as quotients of quotients
    (what the stem's convolution makes of them) it takes minutes to see that two are equal.
    """
    side = PATCH_STRIDE * UNIT_SIDES[0]
    rows, cols = images.shape[-2] // side, images.shape[-1] // side
    return images.new_empty(*images.shape[:-2], rows * side, cols * side).copy_(images)


def _check_sizes(
    embed_dim: int, num_heads: int, depths: Sequence[int], out_features: Sequence[str], drop_path_rate: float
) -> None:
    """Refuse sizes that cannot be built."""
    unknown = [name for name in out_features if name not in STAGES]
    if isinstance(out_features, str) or unknown or not out_features or len(set(out_features)) != len(out_features):
        raise InputError(f"out_features {out_features!r}: give one or more of {', '.join(STAGES)}, each once")
    if len(depths) != len(STAGES) or any(depth < 1 for depth in depths):
        raise InputError(f"depths {tuple(depths)}: give four numbers of blocks, each at least 1")
    if num_heads < 1 or embed_dim < 1 or embed_dim % num_heads:
        raise InputError(f"embed_dim {embed_dim}: must be a positive multiple of num_heads {num_heads}")
    if not 0.0 <= drop_path_rate < 1.0:
        raise InputError(f"drop_path_rate {drop_path_rate}: must be at least 0 and below 1")


def _check_positions(pretrain_size: int | Sequence[int], pos_embed: str, pos_grid: Sequence[int], frames: int) -> None:
    """Refuse a position embedding that cannot be built."""
    sides = (pretrain_size, pretrain_size) if isinstance(pretrain_size, int) else tuple(pretrain_size)
    if len(sides) != 2 or any(side < 1 or side % PATCH_STRIDE for side in sides):
        raise InputError(f"pretrain_size {pretrain_size}: must be a positive multiple of {PATCH_STRIDE}, or two")
    if pos_embed not in POS_EMBEDS:
        raise InputError(f"pos_embed {pos_embed!r}: choose one of {', '.join(POS_EMBEDS)}")
    if len(pos_grid) != 2 or any(side < 1 for side in pos_grid):
        raise InputError(f"pos_grid {tuple(pos_grid)}: give height and width in tokens")
    if frames < 0 or frames % FRAME_STRIDE:
        raise InputError(f"frames {frames}: must be 0 for images, or a positive multiple of {FRAME_STRIDE}")
    if frames and pos_embed != "interpolate":
        raise InputError(f'pos_embed {pos_embed!r}: a video trunk (frames {frames}) has "interpolate" only')


def _checkpoint_stages(use_checkpoint: bool | Sequence[str]) -> tuple[str, ...]:
    """The stages whose blocks are recomputed in the backward pass."""
    if isinstance(use_checkpoint, bool):
        return STAGES if use_checkpoint else ()
    if isinstance(use_checkpoint, str) or any(name not in STAGES for name in use_checkpoint):
        raise InputError(f"use_checkpoint {use_checkpoint!r}: give True, False or some of {', '.join(STAGES)}")
    return tuple(use_checkpoint)


def _check_windows(
    depths: Sequence[int],
    window_size: Sequence[int],
    global_blocks: Sequence[int],
    window_padding: str,
    frames: int,
) -> None:
    """Refuse windows that cannot be cut."""
    if window_padding not in WINDOW_PADDINGS:
        raise InputError(f"window_padding {window_padding!r}: choose one of {', '.join(WINDOW_PADDINGS)}")
    if len(window_size) != len(STAGES) or any(
        size < 0 or size % unit for size, unit in zip(window_size, UNIT_SIDES, strict=True)
    ):
        raise InputError(
            f"window_size {tuple(window_size)}: give four sides in tokens, multiples of {UNIT_SIDES}, 0 for global"
        )
    if frames and any(size > unit for size, unit in zip(window_size, UNIT_SIDES, strict=True)):
        raise InputError(f"window_size {tuple(window_size)}: a video trunk (frames {frames}) has no larger windows")
    pooling = [sum(depths[:stage]) for stage in range(1, len(STAGES))]
    for block in global_blocks:
        if not 0 <= block < sum(depths) or (block in pooling and window_size[pooling.index(block)]):
            raise InputError(
                f"global_blocks {tuple(global_blocks)}: {block} must be in 0 to {sum(depths) - 1} and not the first of "
                f"a stage ({', '.join(map(str, pooling))})"
            )


def _block_windows(depths: Sequence[int], window_size: Sequence[int], global_blocks: Sequence[int]) -> list[int]:
    """Each block's window side in mask units, 0 for global; a stage's first block has the window of the one before."""
    sides = [size // unit for size, unit in zip(window_size, UNIT_SIDES, strict=True)]
    windows = [
        sides[stage - 1 if stage and i == 0 else stage] for stage, depth in enumerate(depths) for i in range(depth)
    ]
    return [0 if block in global_blocks else window for block, window in enumerate(windows)]


def _common_window(windows: Sequence[int]) -> int:
    """The side in units of all windows of several units, where they are alike; otherwise 1."""
    larger = {window for window in windows if window > 1}
    return larger.pop() if len(larger) == 1 else 1


def _build_blocks(
    embed_dim: int,
    num_heads: int,
    depths: Sequence[int],
    mlp_ratio: float,
    drop_path_rate: float,
    windows: Sequence[int],
    options: Mapping[str, bool],
) -> list[HieraBlock]:
    """All blocks of the four stages; the first of a stage pools and widens."""
    rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
    pool = math.prod(Q_STRIDE)
    unit_tokens = UNIT_SIDES[0] ** 2
    dim = embed_dim
    blocks: list[HieraBlock] = []
    for stage, depth in enumerate(depths):
        for i in range(depth):
            pools = stage > 0 and i == 0
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
                    windows[len(blocks)],
                    **options,
                )
            )
            dim = dim_out
            if pools:
                unit_tokens //= pool
    return blocks
