"""Pictures of reconstructions show what the model predicts, where it predicts it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hiera_det.modeling.mae import HieraMAE
from hiera_det.tasks.pretrain.pictures import draw_reconstructions, reconstruct
from hiera_det.zoo import hiera_mae


def small(frames: int, normalise: bool = True) -> HieraMAE:
    model = hiera_mae(
        "tiny",
        embed_dim=16,
        depths=(1, 1, 1, 1),
        decoder_embed_dim=32,
        decoder_depth=1,
        decoder_num_heads=2,
        pretrain_size=64,
        frames=frames,
        normalise_labels=normalise,
    )
    return model.eval()


def shape(frames: int) -> tuple[int, ...]:
    return (2, 3, frames, 64, 64) if frames else (2, 3, 64, 64)


@pytest.mark.parametrize("frames", [0, 4])
@pytest.mark.parametrize("normalise", [True, False])
def test_the_left_out_pixels_differ_from_the_original_by_the_models_loss(frames: int, normalise: bool) -> None:
    model, images = small(frames, normalise), torch.randn(shape(frames))
    found = reconstruct(model, images, 0.5, seed=3)
    grid = model.unit_grid(images)
    mask = found.kept[:, 0, ::32, ::32].reshape(2, -1)
    assert mask.shape[1] == np.prod(grid)
    with torch.no_grad():
        loss = model(images, mask=mask).loss
    difference = found.predicted - found.original
    if normalise:  # the loss is measured in deviations of each token's 16x16 pixels of all colours
        tokens = found.original.reshape(-1, 3, 4, 16, 4, 16)
        deviation = (tokens.var(dim=(1, 3, 5), keepdim=True) + 1e-6).sqrt()
        difference = (difference.reshape(tokens.shape) / deviation).reshape(difference.shape)
    left_out = difference[~found.kept.expand_as(difference)]
    torch.testing.assert_close(left_out.square().mean(), loss, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frames", [0, 4])
def test_the_picture_has_four_panels_for_each_image(frames: int, tmp_path: Path) -> None:
    images = torch.randn(shape(frames)) * 0.3
    path = tmp_path / "r.png"
    model = small(frames)
    draw_reconstructions(model, images, 0.5, str(path))
    first = path.read_bytes()
    picture = np.asarray(Image.open(path)).astype(int)
    assert picture.shape == (2 * 68 - 4, 4 * 68 - 4, 3)
    original, masked, predicted, pasted = (picture[:64, at : at + 64] for at in (0, 68, 136, 204))
    grey = (masked == 128).all(axis=2)
    assert 0 < grey.mean() < 1
    assert (masked[~grey] == original[~grey]).all()
    assert (pasted[~grey] == original[~grey]).all()
    assert (pasted[grey] == predicted[grey]).all()
    draw_reconstructions(model, images, 0.5, str(path))
    assert path.read_bytes() == first  # the same units each time
