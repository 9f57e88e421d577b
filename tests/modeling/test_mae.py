"""The masked autoencoder: what it masks, predicts and compares, and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hiera_det import Hiera, HieraMAE, build_hiera, hiera_mae
from hiera_det.errors import InputError
from hiera_det.modeling.masking import mask_from_noise
from hiera_det.modeling.variants import VARIANTS

SMALL = {"embed_dim": 16, "num_heads": 1, "depths": (1, 2, 2, 1)}
DECODER = {"decoder_embed_dim": 32, "decoder_depth": 2, "decoder_num_heads": 4}


def small(**fields: object) -> HieraMAE:
    """An autoencoder of the real structure that takes milliseconds, for images of 64 x 96."""
    return hiera_mae("tiny", **(SMALL | DECODER | {"pretrain_size": (64, 96)} | fields))


@pytest.mark.parametrize("size", VARIANTS)
@pytest.mark.parametrize("frames", [0, 16])
def test_each_size_has_the_published_decoder(size: str, frames: int) -> None:
    with torch.device("meta"):
        model = hiera_mae(size, frames=frames)
    assert len(model.decoder_blocks) == 8
    assert model.decoder_blocks[0].attn.num_heads == 16
    assert model.decoder_pos_embed.shape == (1, 196 * max(1, frames // 2), 512)
    assert model.decoder_pred.weight.shape == (768, 512)  # 16 x 16 pixels of 3 channels
    dims = [VARIANTS[size].embed_dim << stage for stage in (0, 1, 3)]
    kernels = [(1, 4, 4), (1, 2, 2)] if frames else [(4, 4), (2, 2)]
    shapes = [tuple(head.weight.shape) for head in model.multi_scale_fusion_heads[:2]]
    assert shapes == [(dims[2], dim, *kernel) for dim, kernel in zip(dims, kernels, strict=False)]


@pytest.mark.parametrize(("frames", "ratio", "kept"), [(0, None, 2), (4, None, 1), (0, 0.2, 4), (4, 0.5, 6)])
def test_the_masks_ratio_is_the_papers_unless_told(frames: int, ratio: float | None, kept: int) -> None:
    images = torch.randn(2, 3, 4, 64, 96) if frames else torch.randn(2, 3, 64, 96)
    loss, predictions, labels, mask = small(frames=frames)(images, ratio)
    units = 12 if frames else 6
    assert mask.shape == (2, units)
    assert mask.sum(dim=1).tolist() == [kept, kept]
    assert predictions.shape == labels.shape == (2 * (units - kept) * 4, 768)
    torch.testing.assert_close(loss, (predictions - labels).square().mean())


def test_random_masks_differ_between_calls_and_images_and_come_back_with_the_seed() -> None:
    model, images = small(), torch.randn(8, 3, 64, 96)
    torch.manual_seed(3)
    first, second = model(images).mask, model(images).mask
    assert not torch.equal(first, second)
    assert not torch.equal(first, first[:1].expand_as(first))
    torch.manual_seed(3)
    assert torch.equal(model(images).mask, first)


def test_noise_and_its_mask_give_the_same() -> None:
    model, images, noise = small(), torch.randn(2, 3, 64, 96), torch.rand(2, 6)
    by_noise = model(images, 0.6, noise=noise)
    by_mask = model(images, mask=mask_from_noise(noise, 0.6)[0])
    for got, expected in zip(by_noise, by_mask, strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("frames", [0, 4])
def test_labels_are_the_pixels_that_were_left_out(frames: int) -> None:
    model = small(frames=frames, normalise_labels=False)
    images = torch.randn(2, 3, 4, 64, 96) if frames else torch.randn(2, 3, 64, 96)
    labels, mask = model(images).labels, model(images, 0.5).mask
    labels = model(images, mask=mask).labels
    expected: list[Tensor] = []
    for image in range(2):
        for frame in range(max(1, frames // 2)):
            pixels = images[image, :, 2 * frame] if frames else images[image]
            for y in range(4):
                for x in range(6):
                    unit = frame * 6 + (y // 2) * 3 + x // 2
                    patch = pixels[:, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16]
                    if not mask[image, unit]:
                        expected.append((patch.permute(1, 2, 0) if frames else patch).flatten())
    assert torch.equal(labels, torch.stack(expected))


def test_normalised_labels_have_no_mean_and_unit_deviation() -> None:
    labels = small()(5.0 + 3.0 * torch.randn(2, 3, 64, 96)).labels
    torch.testing.assert_close(labels.mean(dim=1), torch.zeros(len(labels)), rtol=0, atol=1e-5)
    torch.testing.assert_close(labels.std(dim=1), torch.ones(len(labels)), rtol=0, atol=1e-4)


def test_predictions_do_not_see_what_is_left_out() -> None:
    model, images = small(), torch.randn(1, 3, 64, 96)
    mask = torch.tensor([[True, False, False, True, False, True]])
    changed = images.clone()
    changed[..., :32, 32:] = 9.0  # units 1 and 2
    before, after = model(images, mask=mask), model(changed, mask=mask)
    assert torch.equal(before.predictions, after.predictions)
    assert not torch.equal(before.labels, after.labels)


@pytest.mark.parametrize("fields", [{}, {"frames": 4}, {"q_pool": 3}, {"q_pool": 0}, {"mask_unit_size": 16}])
def test_every_parameter_gets_a_gradient(fields: dict[str, object]) -> None:
    if "mask_unit_size" in fields:
        fields = fields | {"pretrain_size": (128, 128)}
    model = small(**fields)
    size = (4, 64, 96) if "frames" in fields else model.pretrain_size
    model(torch.randn(2, 3, *size)).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert not any("decoder" in name for name in model.no_weight_decay())


def test_steps_lower_the_loss() -> None:
    model, images, noise = small(), torch.randn(2, 3, 64, 96), torch.rand(2, 6)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(5):
        loss = model(images, noise=noise).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_images_of_another_size_take_resampled_positions() -> None:
    model, images = small(), torch.randn(1, 3, 96, 128)
    model.eval()
    mask = mask_from_noise(torch.rand(1, 12), 0.5)[0]
    assert model(images, mask=mask).predictions.shape == (24, 768)
    other = small(pretrain_size=(96, 128)).eval()
    state = model.state_dict()
    for name, grid, size in (("pos_embed", (16, 24), (24, 32)), ("decoder_pos_embed", (4, 6), (6, 8))):
        table = state[name].unflatten(1, grid).movedim(-1, 1)
        table = torch.nn.functional.interpolate(table, size=size, mode="bicubic")
        state[name] = table.flatten(2).transpose(1, 2)
    other.load_state_dict(state)
    torch.testing.assert_close(model(images, mask=mask).predictions, other(images, mask=mask).predictions)


def test_evaluation_without_gradients_and_checkpoints_give_the_same_loss() -> None:
    model, saving = small(), small(use_checkpoint=("stage1", "stage3"))
    saving.load_state_dict(model.state_dict())
    images, noise = torch.randn(2, 3, 64, 96), torch.rand(2, 6)
    loss = model(images, noise=noise).loss
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(images, noise=noise).loss, loss)
    torch.testing.assert_close(saving(images, noise=noise).loss, loss)


def test_autocast_gives_a_loss_near_that_of_full_precision() -> None:
    model, images, noise = small(), torch.randn(2, 3, 64, 96), torch.rand(2, 6)
    full = model(images, noise=noise).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(images, noise=noise).loss
    assert abs(half.float() - full) < 0.03 * full
    half.backward()


def test_it_compiles_to_one_graph_that_waits_for_no_mask() -> None:
    torch._dynamo.reset()
    model, images, noise = small(), torch.randn(2, 3, 64, 96), torch.rand(2, 6)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for got, expected in zip(compiled(images, noise=noise), model(images, noise=noise), strict=True):
        torch.testing.assert_close(got, expected)


def test_what_it_saves_fills_a_trunk_whole(tmp_path: Path) -> None:
    model = small(pretrain_size=224)
    torch.save(model.state_dict(), tmp_path / "mae.pth")
    trunk = build_hiera("tiny", weights=str(tmp_path / "mae.pth"), **SMALL)
    assert type(trunk) is Hiera
    saved = model.state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in trunk.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"mask_ratio": 1.5}, "mask_ratio 1.5: must be above 0 and below 1"),
        ({"mask_ratio": 0.0}, "mask_ratio 0.0: must be above 0 and below 1"),
        ({"mask": torch.ones(1, 5, dtype=torch.bool)}, r"mask \[1, 5\]: expected \[1, 6\]"),
        ({"mask": torch.ones(1, 6, dtype=torch.bool)}, "mask keeps all 6 units"),
        ({"mask": torch.zeros(1, 6)}, "must be torch.bool"),
        ({"noise": torch.rand(1, 7)}, r"noise \[1, 7\]: expected \[1, 6\]"),
        ({"noise": torch.rand(1, 6), "mask": torch.ones(1, 6, dtype=torch.bool)}, "mask: give it alone"),
    ],
)
def test_masks_that_cannot_be_used_are_named(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        small()(torch.zeros(1, 3, 64, 96), **arguments)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((1, 3, 6, 64, 96), "clip 6x64x96: this MAE takes 4x64x96"),
        ((1, 3, 4, 64, 64), "clip 4x64x64: this MAE takes 4x64x96"),
        ((1, 3, 5, 64, 96), "clip of 5 frames: the number must be a multiple of 2"),
        ((1, 3, 64, 96), r"expected \[B, 3, T, H, W\]"),
    ],
)
def test_clips_of_another_length_or_size_are_named(shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(InputError, match=says):
        small(frames=4)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"decoder_num_heads": 5}, "decoder_embed_dim 32: must be a positive multiple of decoder_num_heads 5"),
        ({"decoder_depth": 0}, "decoder_depth 0: give the number"),
        ({"q_pool": 4}, "q_pool 4: must be 0 to 3"),
        ({"q_pool": -1}, "q_pool -1: must be 0 to 3"),
        ({"out_features": ("stage1",)}, "out_features .*: an MAE reads its own stages"),
        ({"window_size": (8, 4, 8, 0)}, "windows of 4x4 mask units need them all"),
        ({"pretrain_size": 100}, "pretrain_size 100x100: must be a multiple of 32"),
    ],
)
def test_what_cannot_be_built_is_named(fields: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        small(**fields)
