"""Pretraining as a masked autoencoder (Ryali et al. 2023, section 3 and appendix; He et al. 2022).

Most mask units are left out; the trunk encodes the rest, whose stages are brought to one size and added; a small plain
transformer fills the gaps and predicts the pixels that nobody saw. Sparse from the first layer on: what is left out
costs nothing in the trunk. Letters: B images, T frames and H, W pixels, U mask units per image, k kept ones, N tokens
of the last stage per image, C channels.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hiera_det.errors import InputError
from hiera_det.modeling.block import NORM_EPS, HieraBlock
from hiera_det.modeling.fast.linear import linear
from hiera_det.modeling.hiera import HieraBase
from hiera_det.modeling.images import check_images
from hiera_det.modeling.masking import check_mask, kept_units, mask_from_noise
from hiera_det.modeling.options import FRAME_STRIDE, PATCH_STRIDE, STAGES, HieraOptions
from hiera_det.modeling.position import resize_pos_embed
from hiera_det.modeling.tokens import UnitGrid

__all__ = ["HieraMAE", "MAEOutput"]

#: Part of the mask units that the paper leaves out: of images, and of clips.
IMAGE_MASK_RATIO, CLIP_MASK_RATIO = 0.6, 0.9
#: Keeps the division by the deviation of one colour's pixels finite.
LABEL_EPS = 1e-6


class MAEOutput(NamedTuple):
    """What a step of pretraining gives, in the order of the authors' model.

    Attributes:
        loss: mean square of predictions minus labels.
        predictions: ``[n, pixels]``, a row for each of the n tokens of the last stage in no kept unit, image by
            image, row-major; clips frame by frame.
        labels: what they should be, in the same shape.
        mask: ``[B, U]``, true for the mask units that were kept.
    """

    loss: Tensor
    predictions: Tensor
    labels: Tensor
    mask: Tensor


class HieraMAE(HieraBase):
    """A trunk with the decoder that pretrains it; tensors named as in the authors' files.

    Args:
        options: as of `Hiera`.
        decoder_embed_dim: channels of the decoder.
        decoder_depth: its blocks, each over all tokens of an image or clip.
        decoder_num_heads: its attention heads.
        q_pool: as of `HieraOptions`, whatever the options say; at 2 the decoder starts from stride 16, as the authors'.
        normalise_labels: predict pixels less their token's mean, over its standard deviation.
        fields: as of `Hiera`, but ``out_features``; ``frames=16`` for clips.

    Raises:
        InputError: a value that cannot be used.

    Example:
        >>> import torch
        >>> from hiera_det import hiera_mae
        >>> model = hiera_mae("tiny", decoder_depth=1)
        >>> loss, predictions, labels, mask = model(torch.zeros(2, 3, 96, 96))
        >>> predictions.shape, mask.sum(dim=1)
        (torch.Size([48, 768]), tensor([3, 3]))
    """

    def __init__(
        self,
        *options: Any,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        q_pool: int = 2,
        normalise_labels: bool = True,
        **fields: Any,
    ) -> None:
        if decoder_num_heads < 1 or decoder_embed_dim < 1 or decoder_embed_dim % decoder_num_heads:
            raise InputError(
                f"decoder_embed_dim {decoder_embed_dim}: must be a positive multiple of decoder_num_heads "
                f"{decoder_num_heads}"
            )
        if decoder_depth < 1:
            raise InputError(f"decoder_depth {decoder_depth}: give the number of blocks, at least 1")
        if "out_features" in fields:
            raise InputError(
                f"out_features {fields['out_features']!r}: an MAE reads its own stages; take Hiera for maps"
            )
        # What is not pooled any more has the last stage's size already, and is not fused.
        stages = (*STAGES[:-1][: max(0, q_pool)], STAGES[-1])
        super().__init__(HieraOptions.of(*options, out_features=stages, q_pool=q_pool, **fields))
        self.check_maskable()
        height, width = self.pretrain_size
        if height % self.size_divisibility or width % self.size_divisibility:
            raise InputError(
                f"pretrain_size {height}x{width}: must be a multiple of {self.size_divisibility} for an MAE"
            )
        self.normalise_labels = normalise_labels
        dim = self.feature_info[-1].channels
        self.encoder_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.multi_scale_fusion_heads = nn.ModuleList(self._fusion_head(stage, dim) for stage in range(q_pool))
        self.multi_scale_fusion_heads.append(nn.Identity())  # the authors count the last stage's, which has no tensors
        self._build_decoder(dim, decoder_embed_dim, decoder_depth, decoder_num_heads)
        self.init_weights()

    def _fusion_head(self, stage: int, dim: int) -> nn.Conv2d | nn.Conv3d:
        """A convolution that brings a stage's mask units to the last stage's size and channels."""
        side = self.unit_sides[stage] // self.unit_sides[-1]
        channels = self.feature_info[stage].channels
        if self.frames:
            return nn.Conv3d(channels, dim, (1, side, side), stride=(1, side, side))
        return nn.Conv2d(channels, dim, side, stride=side)

    def _build_decoder(self, dim: int, decoder_dim: int, depth: int, num_heads: int) -> None:
        """Add what turns the kept units' features into predictions for all tokens."""
        #: Side in pixels of what one token of the decoder predicts.
        self.pred_stride = PATCH_STRIDE * self.options.token_strides[-1]
        self.decoder_grid = tuple(side // self.pred_stride for side in self.pretrain_size)
        frames = max(1, self.frames // FRAME_STRIDE)
        self.decoder_embed = nn.Linear(dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, frames * math.prod(self.decoder_grid), decoder_dim))
        self.decoder_blocks = nn.ModuleList(
            HieraBlock(decoder_dim, decoder_dim, num_heads, self.options.mlp_ratio, 0.0, 1, 1, window=0)
            for _ in range(depth)
        )
        self.decoder_norm = nn.LayerNorm(decoder_dim, eps=NORM_EPS)
        self.decoder_pred = nn.Linear(decoder_dim, self.pred_stride**2 * self.in_channels)

    def position_grids(self) -> dict[str, tuple[int, int]]:
        """As of `Hiera`, with the decoder's table; of clips, only the trunk's can be resampled."""
        height, width = self.decoder_grid
        return super().position_grids() | ({} if self.frames else {"decoder_pos_embed": (height, width)})

    def init_weights(self) -> None:
        """Initialise as the authors do: Xavier for linear layers and the stem, no biases, 0.02 for the tables."""
        super().init_weights()
        for parameter in (self.mask_token, self.decoder_pos_embed):
            nn.init.normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
            if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))
        for head in self.multi_scale_fusion_heads:
            if isinstance(head, nn.Conv2d | nn.Conv3d):
                head.reset_parameters()

    def forward(
        self,
        images: Tensor,
        mask_ratio: float | None = None,
        mask: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> MAEOutput:
        """Leave mask units out, predict their pixels and compare.

        Args:
            images: ``[B, in_channels, H, W]``, normalised, H and W multiples of 32; for another size than
                ``pretrain_size`` the position embeddings are resampled. Clips ``[B, in_channels, T, H, W]`` have the
                very length and size that the model was built for.
            mask_ratio: part of the mask units to leave out, at random; None for the paper's 0.6, of clips 0.9.
            mask: ``[B, U]`` of bool, true for the units to keep, as many in each image, in place of random ones.
            noise: ``[B, U]``: keep those of the smallest noise, in place of uniform random numbers.

        Returns:
            loss, predictions, labels and mask, see `MAEOutput`.

        Raises:
            InputError: images, clips, a ratio, mask or noise that cannot be used.
        """
        check_images(images, self.in_channels, self.frames > 0, self.size_divisibility)
        if self.frames:
            self._check_clips(images)
        mask, kept = self._choose_units(images, mask_ratio, mask, noise)
        latent = self.encode(images, mask, kept)
        predictions = self.decode(latent, mask, kept, self.unit_grid(images))
        places = self._unseen_tokens(mask, kept, self.unit_grid(images))
        predictions = _gather(predictions, places).flatten(0, 1)
        labels = self._labels(images, places)
        return MAEOutput((predictions - labels).square().mean(), predictions, labels, mask)

    def _check_clips(self, clips: Tensor) -> None:
        """Refuse clips of another length or size than the decoder's positions."""
        expected = [self.frames, *self.pretrain_size]
        if list(clips.shape[2:]) != expected:
            got, want = ("x".join(map(str, shape)) for shape in (clips.shape[2:], expected))
            raise InputError(
                f"clip {got}: this MAE takes {want}; cut the clips, or build it with frames, pretrain_size"
            )

    def _choose_units(
        self, images: Tensor, mask_ratio: float | None, mask: Tensor | None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The mask ``[B, U]``, and the numbers of the kept units ``[B, k]``."""
        grid = self.unit_grid(images)
        units = math.prod(grid)
        if mask is not None:
            if noise is not None or mask_ratio is not None:
                raise InputError("mask: give it alone, without mask_ratio and noise")
            check_mask(mask, len(images), grid)
            kept = kept_units(mask)
            if kept.shape[1] == units:
                raise InputError(f"mask keeps all {units} units: leave some out, there is nothing to predict")
            return mask.to(images.device), kept.to(images.device)
        if noise is None:
            noise = torch.rand(len(images), units, device=images.device)
        elif tuple(noise.shape) != (len(images), units):
            raise InputError(f"noise {list(noise.shape)}: expected [{len(images)}, {units}], a number per mask unit")
        ratio = mask_ratio if mask_ratio is not None else CLIP_MASK_RATIO if self.frames else IMAGE_MASK_RATIO
        return mask_from_noise(noise.to(images.device), ratio)

    def encode(self, images: Tensor, mask: Tensor, kept: Tensor) -> Tensor:
        """The kept units' features.

        Args:
            images: as for `forward`.
            mask: ``[B, U]``, true for kept units.
            kept: their numbers ``[B, k]``, ascending.

        Returns:
            ``[B, k * unit, C]``, units of ``unit_sides[-1] ** 2`` tokens one after another, row-major.
        """
        stages = self.maps(self.embed_kept(images, mask, kept))
        fused: Tensor | None = None
        for head, units in zip(self.multi_scale_fusion_heads, stages.values(), strict=True):
            x = units.flatten(0, 1)  # [B * k, C, unit, unit]
            x = head(x.unsqueeze(2)).squeeze(2) if isinstance(head, nn.Conv3d) else head(x)
            fused = x if fused is None else fused + x
        assert fused is not None
        tokens = fused.flatten(2).transpose(1, 2)  # [B * k, unit * unit, C]
        return self.encoder_norm(tokens.reshape(len(images), -1, tokens.shape[-1]))

    def decode(self, latent: Tensor, mask: Tensor, kept: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Predict the pixels of every token, of the kept units too.

        Args:
            latent: what `encode` gave.
            mask: ``[B, U]``, true for kept units.
            kept: their numbers ``[B, k]``.
            grid: mask units of the images, see `unit_grid`.

        Returns:
            ``[B, N, pixels]``, tokens row-major, of clips frame by frame; pixels of images with the channels first, of
            clips with the channels last, as the authors' weights have them.
        """
        side = self.unit_sides[-1]
        x = linear(self.decoder_embed, latent).to(self.mask_token.dtype).view(*kept.shape, side * side, -1)
        full = self.mask_token.expand(*mask.shape, side * side, -1)  # [B, U, unit * unit, C]
        rows = torch.arange(len(kept), device=kept.device)[:, None]
        x = _in_rows(full.index_put((rows, kept), x), grid, side)
        x = x + self._decoder_positions(grid)
        order = UnitGrid(grid[-2], grid[-1], 1, {})  # which attention over everything does not look at
        for block in self.decoder_blocks:
            x = block(x, order)
        return linear(self.decoder_pred, self.decoder_norm(x))

    def _decoder_positions(self, grid: tuple[int, ...]) -> Tensor:
        """The decoder's position embedding ``[1, N, C]``; of images, for their size."""
        if self.frames:
            return self.decoder_pos_embed
        height, width = self.decoder_grid
        size = grid[0] * self.unit_sides[-1], grid[1] * self.unit_sides[-1]
        return resize_pos_embed(self.decoder_pos_embed, (height, width), size).flatten(1, 2)

    def _unseen_tokens(self, mask: Tensor, kept: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Numbers ``[B, n]`` of the tokens that are in no kept unit, ascending."""
        side = self.unit_sides[-1]
        seen = _in_rows(mask[..., None, None].expand(-1, -1, side * side, 1), grid, side)[..., 0]
        unseen = (mask.shape[1] - kept.shape[1]) * side * side
        # A stable sort and not nonzero(): how many there are is known, and a GPU need not be waited for.
        return seen.to(torch.uint8).argsort(dim=1, stable=True)[:, :unseen]

    def _labels(self, images: Tensor, places: Tensor) -> Tensor:
        """The pixels ``[n, pixels]`` of the tokens of the given numbers ``[B, n / B]``."""
        side = self.pred_stride
        if self.frames:
            images = images[:, :, ::FRAME_STRIDE]  # a token predicts the first of its frames
        height, width = (size // side for size in images.shape[-2:])
        x = images.reshape(*images.shape[:-2], height, side, width, side)
        x = x.transpose(-3, -2).movedim(1, -1)  # [B, (T,) h, w, side, side, C]
        if not self.frames:
            x = x.movedim(-1, -3)  # the authors order the pixels of images and clips differently
        labels = _gather(x.flatten(-3).flatten(1, -2), places).flatten(0, 1)
        if self.normalise_labels:
            mean, var = labels.mean(dim=-1, keepdim=True), labels.var(dim=-1, keepdim=True)
            labels = (labels - mean) / (var + LABEL_EPS) ** 0.5
        return labels


def _in_rows(x: Tensor, grid: tuple[int, ...], side: int) -> Tensor:
    """Units ``[B, U, side * side, C]`` to tokens ``[B, N, C]``, row-major over each image or frame."""
    rows, cols = grid[-2:]
    x = x.reshape(-1, rows, cols, side, side, x.shape[-1]).transpose(2, 3)
    return x.reshape(-1, math.prod(grid) * side * side, x.shape[-1])


def _gather(x: Tensor, places: Tensor) -> Tensor:
    """Rows ``[B, n, C]`` of ``[B, N, C]`` by their numbers ``[B, n]``."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))
