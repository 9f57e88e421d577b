"""The classifier: logits of images and clips, its head's start, and refusals."""

from __future__ import annotations

import pytest
import torch

from hiera_det import HieraForClassification, hiera_classifier
from hiera_det.errors import InputError
from hiera_det.modeling.variants import VARIANTS

SMALL = {"embed_dim": 16, "num_heads": 1, "depths": (1, 2, 2, 1)}


def small(num_classes: int = 7, **fields: object) -> HieraForClassification:
    """A classifier of the real structure that takes milliseconds."""
    return hiera_classifier("tiny", num_classes, **(SMALL | fields))


@pytest.mark.parametrize("size", VARIANTS)
@pytest.mark.parametrize(("frames", "classes"), [(0, 1000), (16, 400)])
def test_each_size_has_the_classes_of_its_published_file(size: str, frames: int, classes: int) -> None:
    with torch.device("meta"):
        model = hiera_classifier(size, frames=frames)
    assert model.num_classes == classes
    dim = 8 * VARIANTS[size].embed_dim
    assert model.head.projection.weight.shape == (classes, dim)
    assert model.norm.weight.shape == (dim,)


@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (3, 3, 96, 160)])
def test_logits_are_those_of_the_mean_of_the_last_tokens(shape: tuple[int, ...]) -> None:
    model = small().eval()
    torch.nn.init.normal_(model.head.projection.weight)
    images = torch.randn(shape)
    tokens = model.maps(model.embed(images))["stage4"].flatten(2)
    features = torch.nn.functional.layer_norm(tokens.mean(-1), (128,), model.norm.weight, model.norm.bias, 1e-6)
    torch.testing.assert_close(model.features(images), features)
    expected = features @ model.head.projection.weight.T + model.head.projection.bias
    torch.testing.assert_close(model(images), expected)
    torch.testing.assert_close(model.train()(images), expected)  # no softmax in either mode


def test_clips_of_any_even_length_give_logits() -> None:
    model = small(frames=4)
    assert model(torch.randn(2, 3, 4, 64, 64)).shape == (2, 7)
    assert model(torch.randn(1, 3, 6, 64, 96)).shape == (1, 7)


def test_the_head_starts_at_a_thousandth_and_the_trunk_as_a_trunk() -> None:
    model = small(num_classes=1000)
    assert model.head.projection.weight.std().item() == pytest.approx(0.02e-3, rel=0.05)
    torch.testing.assert_close(model.head.projection.bias, torch.full((1000,), 0.02e-3))
    assert model.blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert torch.all(model.norm.weight == 1.0)
    before = model.head.projection.weight.clone()
    model.reset_parameters()
    assert not torch.equal(model.head.projection.weight, before)
    assert model.head.projection.weight.std().item() == pytest.approx(0.02e-3, rel=0.05)


def test_every_parameter_gets_a_gradient_and_a_step_lowers_the_loss() -> None:
    model, images, labels = small(), torch.randn(4, 3, 64, 64), torch.tensor([0, 3, 6, 3])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(4):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert model.no_weight_decay() == {"pos_embed"}


def test_dropout_acts_on_the_features_in_training_only() -> None:
    model = small(dropout=0.5)
    torch.nn.init.ones_(model.head.projection.weight)
    images = torch.randn(1, 3, 64, 64)
    assert not torch.allclose(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"num_classes": 0}, "num_classes 0: must be at least 1"),
        ({"dropout": 1.0}, "dropout 1.0: must be at least 0 and below 1"),
        ({"out_features": ("stage1",)}, "out_features .*: a classifier reads stage4"),
        ({"depths": (1, 2)}, "give four numbers"),
    ],
)
def test_what_cannot_be_built_is_named(fields: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        small(**fields)


def test_unknown_size_lists_the_sizes() -> None:
    with pytest.raises(InputError, match="tiny, small, base, base_plus, large, huge"):
        hiera_classifier("giant")
