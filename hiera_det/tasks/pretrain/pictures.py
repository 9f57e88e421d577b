"""Pictures of what an autoencoder makes of images: original, masked, reconstructed, and pasted into the original."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from hiera_det.files import write_atomically
from hiera_det.modeling.hiera import FRAME_STRIDE
from hiera_det.modeling.mae import LABEL_EPS, HieraMAE
from hiera_det.modeling.masking import mask_from_noise

__all__ = ["Reconstruction", "draw_reconstructions", "reconstruct"]

#: What is left out is shown in this grey, and the panels are this far apart.
GREY, GAP = 128, 4


class Reconstruction(NamedTuple):
    """Images and what was made of them; of clips the frames that are predicted, clip by clip.

    Attributes:
        original: ``[n, 3, H, W]``, normalised.
        predicted: the same from the kept units alone.
        kept: ``[n, 1, H, W]`` of bool, true for pixels of kept units.
    """

    original: Tensor
    predicted: Tensor
    kept: Tensor


@torch.no_grad()
def reconstruct(model: HieraMAE, images: Tensor, mask_ratio: float, seed: int = 0) -> Reconstruction:
    """Predict all pixels of images or clips of which most units are left out.

    The model predicts pixels less their token's mean over its deviation: both are taken from the original, as the
    authors advise (README, MAE inference).

    Args:
        model: in evaluation mode afterwards.
        images: ``[B, 3, H, W]`` or ``[B, 3, T, H, W]``, normalised.
        mask_ratio: part that is left out.
        seed: of the mask.
    """
    model.eval()
    grid = model.unit_grid(images)
    noise = torch.rand(len(images), math.prod(grid), generator=torch.Generator().manual_seed(seed)).to(images.device)
    mask, kept = mask_from_noise(noise, mask_ratio)
    predictions = model.decode(model.encode(images, mask, kept), mask, kept, grid).float()
    if model.frames:  # each token predicts the first of its frames, the channels last
        images = images[:, :, ::FRAME_STRIDE].transpose(1, 2).flatten(0, 1)
        predictions = predictions.reshape(len(images), -1, model.pred_stride**2, images.shape[1])
        predictions = predictions.transpose(-1, -2).flatten(-2)
    tokens = _to_tokens(images, model.pred_stride)
    if model.normalise_labels:
        mean, var = tokens.mean(dim=-1, keepdim=True), tokens.var(dim=-1, keepdim=True)
        predictions = predictions * (var + LABEL_EPS) ** 0.5 + mean
    pixels = mask.view(-1, 1, *grid[-2:])
    for axis in (2, 3):
        pixels = pixels.repeat_interleave(model.size_divisibility, dim=axis)
    return Reconstruction(images, _to_images(predictions, images), pixels)


def draw_reconstructions(model: HieraMAE, images: Tensor, mask_ratio: float, path: str) -> None:
    """Write a PNG with a row of four panels for each image, or the middle of each clip, in one step.

    Args:
        model: in evaluation mode afterwards.
        images: as for `reconstruct`, on the model's device.
        mask_ratio: part that is left out; the same units at every call.
        path: of the picture.

    Raises:
        WriteError: it cannot be written.
    """
    whole = reconstruct(model, images, mask_ratio)
    steps = len(whole.original) // len(images)  # frames of a clip
    chosen = slice(steps // 2, None, steps)
    pixels = model.pixel_mean, model.pixel_std
    original, predicted = (_bytes(part[chosen], *pixels) for part in (whole.original, whole.predicted))
    kept = whole.kept[chosen].cpu()
    masked = original.where(kept, torch.tensor(GREY, dtype=torch.uint8))
    rows = zip(original, masked, predicted, original.where(kept, predicted), strict=True)
    height, width = images.shape[-2:]
    sheet = Image.new("RGB", (4 * (width + GAP) - GAP, len(images) * (height + GAP) - GAP), "white")
    for row, panels in enumerate(rows):
        for column, panel in enumerate(panels):
            picture = Image.fromarray(panel.permute(1, 2, 0).contiguous().numpy())
            sheet.paste(picture, (column * (width + GAP), row * (height + GAP)))
    write_atomically(path, lambda file: sheet.save(file, format="PNG"))


def _to_tokens(images: Tensor, side: int) -> Tensor:
    """``[B, C, H, W]`` to the pixels of each token ``[B, N, C * side * side]``, tokens row-major."""
    return torch.nn.functional.unfold(images, side, stride=side).transpose(1, 2)


def _to_images(tokens: Tensor, like: Tensor) -> Tensor:
    """Back again, to the shape of some images."""
    side = round((tokens.shape[-1] / like.shape[1]) ** 0.5)
    return torch.nn.functional.fold(tokens.transpose(1, 2), like.shape[-2:], side, stride=side)


def _bytes(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalised images to bytes, on the CPU."""
    scale, shift = (torch.tensor(values).view(1, 3, 1, 1) for values in (std, mean))
    return (images.float().cpu() * scale + shift).round().clamp(0, 255).to(torch.uint8)
