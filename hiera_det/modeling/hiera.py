"""The Hiera trunk (Ryali et al. 2023, "Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles").

Four stages at strides 4, 8, 16, 32; attention inside mask units in the first two and over the whole image, or in larger
windows, in the last two; queries max-pooled between stages. Parameters are named as in the authors' files; SAM 2's
HieraDet, timm's variations and the video models are settings of the same trunk (`hiera_det.zoo`). Mask units
can be left out (`hiera_det.modeling.masking`). Letters: B images, T frames and H, W pixels unless said, N tokens per
image, C channels, k kept mask units.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from hiera_det.errors import InputError
from hiera_det.modeling.block import HieraBlock
from hiera_det.modeling.fast.paths import is_symbolic
from hiera_det.modeling.fast.recompute import recomputed
from hiera_det.modeling.fast.sizes import as_traced, as_units, divides
from hiera_det.modeling.fast.slabs import run_in_slabs, use_slabs
from hiera_det.modeling.freezing import Freezable
from hiera_det.modeling.images import CLIP_PIXELS, IMAGE_PIXELS, check_images
from hiera_det.modeling.masking import check_mask, check_stem, gather_units, kept_units, unit_windows
from hiera_det.modeling.options import (
    FRAME_STRIDE,
    PATCH_STRIDE,
    POS_EMBEDS,
    STAGES,
    UNIT_SIDES,
    Feature,
    HieraOptions,
)
from hiera_det.modeling.position import absolute_win_embed, resize_pos_embed, separable_embed, tile_pos_embed
from hiera_det.modeling.tokens import Tokens, UnitGrid, unroll

__all__ = ["FRAME_STRIDE", "PATCH_STRIDE", "POS_EMBEDS", "STAGES", "UNIT_SIDES", "Feature", "Hiera", "HieraBase"]


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


class HieraBase(Freezable):
    """What the trunk, the classifier and the autoencoder share: images to tokens, and the tokens after each block.

    Attributes:
        options: what it was built from.
        feature_info: name, channels and stride of each map of the stages in ``out_features``.
        stage_ends: the last block of each stage that is built.
        size_divisibility: what height and width of images must be multiples of, in pixels.
        pixel_mean, pixel_std: what images are to be normalised by: red, green and blue, of pixels of 0 to 255.
    """

    def __init__(self, options: HieraOptions) -> None:
        super().__init__()
        self.options = options
        self.in_channels, self.frames, self.depths = options.in_channels, options.frames, options.depths
        self.pretrain_size = options.pretrain_sides
        self.unit_sides, self.size_divisibility = options.unit_sides, options.size_divisibility
        self.pixel_mean, self.pixel_std = CLIP_PIXELS if options.frames else IMAGE_PIXELS
        self.patch_embed = PatchEmbed(options.in_channels, options.embed_dim, video=options.frames > 0)
        self._add_positions()
        self.blocks = nn.ModuleList(_build_block(options, i) for i in range(len(options.block_stages)))
        self._unit_strides, self.pos_grid = options.unit_strides, options.table_grid
        self._plan_blocks(options)

    def _plan_blocks(self, options: HieraOptions) -> None:
        """Settle what becomes of the tokens after each block; ``options`` differ from those before in this alone."""
        self.options = options
        self.feature_info, self.stage_ends = options.feature_info, options.stage_ends
        self.out_features = tuple(feature.name for feature in self.feature_info)
        #: Leading blocks that attend inside mask units only.
        self.local_blocks = next((i for i, window in enumerate(options.windows) if window != 1), len(self.blocks))
        self._unit_group = options.unit_group
        #: For each block whether it is recomputed in the backward pass, and how mask units are nested after it.
        self._plan = tuple(
            (STAGES[stage] in options.checkpoint_stages, options.unit_strides[min(stage, options.q_pool) :])
            for stage in options.block_stages
        )
        self._outputs = {self.stage_ends[STAGES.index(name)]: name for name in self.out_features}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass, to save memory, or no longer."""
        self._plan_blocks(self.options.replace(use_checkpoint=enable))

    def _add_positions(self) -> None:
        """Add the parameters of the position embedding."""
        dim, grid = self.options.embed_dim, self.options.table_grid
        if self.options.pos_embed == "absolute_win":
            self.pos_embed = nn.Parameter(torch.zeros(1, dim, *grid))
            self.pos_embed_window = nn.Parameter(torch.zeros(1, dim, self.unit_sides[0], self.unit_sides[0]))
        elif self.frames:
            self.pos_embed_spatial = nn.Parameter(torch.zeros(1, math.prod(grid), dim))
            self.pos_embed_temporal = nn.Parameter(torch.zeros(1, self.frames // FRAME_STRIDE, dim))
        else:
            self.pos_embed = nn.Parameter(torch.zeros(1, math.prod(grid), dim))

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuse what ends in a message on type annotations; PyTorch calls it for a model with a trunk in it, too.

        Raises:
            InputError: always.
        """
        raise InputError("torch.jit.script: reads no such trunk; take torch.jit.trace, right at every size, or export")

    def position_grids(self) -> dict[str, tuple[int, int]]:
        """Height and width in tokens of the tables, by their parameters' names, that can be resampled on loading."""
        return {"pos_embed_spatial" if self.frames else "pos_embed": self.options.table_grid}

    def reset_parameters(self) -> None:
        """Initialise every parameter anew, as on storage that ``to_empty`` gave."""
        for module in self.modules():
            if module is not self and callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise as the authors do: normal 0.02 for weights, 0.02 for linear and norm biases.

        They cut the normal off at 2, a hundred deviations away: nothing is there to cut.
        """
        for name in self.no_weight_decay():
            nn.init.normal_(self.get_parameter(name), std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
                nn.init.constant_(module.bias, 0.02)
            if isinstance(module, nn.LayerNorm) and module.weight is not None:
                nn.init.ones_(module.weight)

    def unit_grid(self, images: Tensor) -> tuple[int, ...]:
        """Mask units of images or clips: rows and columns, for clips frames of tokens before them."""
        frames = (images.shape[2] // FRAME_STRIDE,) if self.frames else ()
        return *frames, *(side // self.size_divisibility for side in images.shape[-2:])

    def check_maskable(self) -> None:
        """Refuse masks where attention windows need units that a mask drops.

        Raises:
            InputError: some block attends in windows of several mask units.
        """
        largest = max(self.options.windows)
        if largest > 1:
            raise InputError(
                f"mask: attention windows of {largest}x{largest} mask units need them all; "
                "build the trunk with window_size=None for mask units and global attention"
            )

    def embed(self, images: Tensor, mask: Tensor | None = None) -> Tokens:
        """Images to tokens with their position embedding: all of them, or those of the mask units that a mask keeps.

        Args:
            images: as for `Hiera.forward`.
            mask: as for `Hiera.forward`.

        Raises:
            InputError: images or a mask that the trunk cannot take.
        """
        images, mask = as_traced(images, mask)
        images = check_images(images, self.in_channels, self.frames > 0, self.size_divisibility)
        if mask is not None:
            self.check_maskable()
            check_mask(mask, len(images), self.unit_grid(images))
            return self.embed_kept(images, mask.to(images.device), kept_units(mask).to(images.device))
        return self._embed_all(as_units(images, self.size_divisibility))

    def _embed_all(self, images: Tensor) -> Tokens:
        """`embed` without a mask."""
        patches = self.patch_embed(images)
        height, width = patches.shape[-2:]
        if not is_symbolic(height) and (height * PATCH_STRIDE, width * PATCH_STRIDE) != tuple(images.shape[-2:]):
            size = "x".join(map(str, images.shape[-2:]))
            raise InputError(f"trunk.patch_embed: gives {height}x{width} tokens of {size} pixels, not one for each 4x4")
        frames = patches.shape[2] if self.frames else None
        rows, cols = height // self.unit_sides[0], width // self.unit_sides[0]
        group = self._unit_group if divides(self._unit_group, rows, cols) else 1
        positions = self._positions((height, width) if frames is None else (frames, height, width), group)
        x = patches.movedim(1, -1)
        if frames is not None:
            x = x.flatten(0, 1)  # a mask unit is one frame thick: frames unroll like images
        x = unroll(x, self._unit_strides, group).contiguous()
        x = x.view(patches.shape[0], positions.shape[1], positions.shape[2])
        return Tokens(x + positions.to(x.dtype), UnitGrid(rows, cols, group, {}), self._unit_strides, frames)

    def embed_kept(self, images: Tensor, mask: Tensor, kept: Tensor) -> Tokens:
        """`embed` with a mask that fits, where the numbers ``[B, k]`` of the units that it keeps are known."""
        *frames, rows, cols = self.unit_grid(images)
        side = self.unit_sides[0]
        check_stem(self.patch_embed)
        windows = unit_windows(images, mask, kept, self.size_divisibility, FRAME_STRIDE if self.frames else 0)
        # What the stem gives at the near end of each axis belongs to the border.
        patches = self.patch_embed(windows)[..., 1:, 1:]
        x = (patches[:, :, 1] if self.frames else patches).movedim(1, -1)
        x = unroll(x, self._unit_strides).contiguous().view(len(images), kept.shape[1] * side**2, x.shape[-1])
        positions = gather_units(self._positions((*frames, rows * side, cols * side), 1), kept, side**2)
        grid = UnitGrid(rows, cols, 0, {})
        return Tokens(x + positions.to(x.dtype), grid, self._unit_strides, frames[0] if frames else None, kept)

    def _positions(self, size: tuple[int, ...], group: int) -> Tensor:
        """The position embedding ``[1, N, C]`` in the order of the tokens, for a map of ``size`` tokens."""
        x = unroll(self._make_positions(size), self._unit_strides, group)
        return x.reshape(1, math.prod(size), x.shape[2])

    def _make_positions(self, size: tuple[int, ...]) -> Tensor:
        """The position embedding ``[T or 1, H, W, C]`` for a map of ``size`` tokens."""
        side, mode = (size[-2], size[-1]), self.options.pos_embed
        if self.frames:
            return separable_embed(self.pos_embed_spatial, self.pos_embed_temporal, self.pos_grid, size[0], side)
        if mode == "absolute_win":
            return absolute_win_embed(self.pos_embed, self.pos_embed_window, side, self.options.pos_antialias)
        return (tile_pos_embed if mode == "tile" else resize_pos_embed)(self.pos_embed, self.pos_grid, side)

    def run(self, tokens: Tokens, first: int = 0, last: int | None = None) -> Iterator[tuple[int, Tokens]]:
        """Run the blocks, or those from ``first`` to before ``last``.

        Yields:
            the block's number, and the tokens after it.

        Raises:
            InputError: blocks were taken out or put in, or one was replaced by what gives other tokens.
        """
        self.check_blocks()
        for i in range(first, len(self.blocks) if last is None else last):
            block, (recompute, strides) = self.blocks[i], self._plan[i]
            given = (tokens.x,) if isinstance(block, nn.Identity) else (tokens.x, tokens.grid)
            after = tokens.moved(recomputed(block, recompute, *given), strides)
            if not isinstance(block, HieraBlock):
                self._check_tokens(i, tokens, after)
            tokens = after
            yield i, tokens

    def _check_tokens(self, index: int, before: Tokens, after: Tokens) -> None:
        """Refuse what somebody's own block gives where it is not as many tokens and channels as come next."""
        batch, count, _ = before.x.shape
        expected = (
            batch,
            count // before.unit_tokens * after.unit_tokens,
            self.options.dims[self.options.block_stages[index]],
        )
        found = tuple(after.x.shape) if isinstance(after.x, Tensor) else type(after.x).__name__
        if found != expected:
            raise InputError(
                f"trunk.blocks[{index}]: {type(self.blocks[index]).__name__} gives {found}, not tokens {expected}"
            )

    def maps(self, tokens: Tokens) -> dict[str, Tensor]:
        """The maps of the stages in ``out_features``, in that order, from the tokens of `embed`."""
        maps = self.maps_after(tokens, self._outputs)
        return {name: maps[name] for name in self.out_features}

    def maps_after(self, tokens: Tokens, outputs: Mapping[int, str]) -> dict[str, Tensor]:
        """The maps after some blocks, by the names that ``outputs`` gives them."""
        if use_slabs(self.blocks, self.local_blocks, tokens):
            steps = run_in_slabs(self.run, self.local_blocks, tokens, outputs)
        else:
            steps = self.run(tokens, last=max(outputs) + 1)
        return {outputs[i]: after.map() for i, after in steps if i in outputs}


class Hiera(HieraBase):
    """The trunk: images to stage maps.

    The published weights expect red, green and blue, in this order: pixels of 0 to 255, less ``trunk.pixel_mean``, over
    ``trunk.pixel_std``.

    Args:
        options: what to build, as `HieraOptions`.
        fields: fields of `HieraOptions` in place of the options' own; or all of them, without options:
            ``Hiera(embed_dim=96, num_heads=1, depths=(2, 3, 16, 3))``.

    Raises:
        InputError: a value that cannot be used, named with the choices.

    Example:
        >>> import torch
        >>> from hiera_det import hiera_tiny
        >>> trunk = hiera_tiny(out_features=("stage1", "stage4"))
        >>> {name: tuple(map.shape) for name, map in trunk(torch.zeros(1, 3, 64, 96)).items()}
        {'stage1': (1, 96, 16, 24), 'stage4': (1, 768, 2, 3)}
    """

    #: The fields by name, for help, and for whoever checks arguments before the call.
    __signature__ = inspect.signature(HieraOptions)

    def __init__(self, *options: Any, **fields: Any) -> None:
        super().__init__(HieraOptions.of(*options, **fields))
        self.init_weights()

    def forward(self, images: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the stage maps, or those of some mask units.

        Args:
            images: ``[B, in_channels, H, W]``, red, green and blue, normalised by ``pixel_mean`` and ``pixel_std``; H
                and W multiples of 32. For a video trunk clips ``[B, in_channels, T, H, W]``, T even.
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
        return self.maps(self.embed(images, mask))


def _build_block(options: HieraOptions, index: int) -> HieraBlock:
    """A block; the first of a stage widens, and pools where the stage's tokens are larger."""
    stages, last = options.block_stages, sum(options.depths) - 1
    stage, before = stages[index], stages[max(0, index - 1)]
    return HieraBlock(
        options.dims[before],
        options.dims[stage],
        options.heads[stage],
        options.mlp_ratio,
        options.drop_path_rate * index / max(1, last),
        options.unit_sides[before] ** 2,
        (options.token_strides[stage] // options.token_strides[before]) ** 2,
        options.windows[index],
        mask_padding=options.window_padding == "mask",
        layer_scale=options.layer_scale,
        recompute_gelu=STAGES[stage] in options.recompute_gelu,
        project_shortcut=options.project_shortcut,
    )


# What decides by sizes is one node of a graph of `torch.fx`, which then holds for all sizes.
for _name in ("absolute_win_embed", "check_images", "resize_pos_embed", "separable_embed", "tile_pos_embed", "unroll"):
    torch.fx.wrap(_name)
