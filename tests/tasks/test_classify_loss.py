"""Accuracy and the loss of mixed batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hiera_det.errors import InputError
from hiera_det.tasks.batches import Batch, eval_loader, samples_of
from hiera_det.tasks.classify.loss import MixedLoss, evaluate
from hiera_det.tasks.settings import Mixing

CPU = torch.device("cpu")


class Reading(nn.Module):
    """A classifier that gives the numbers in its images as logits."""

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        return images.flatten(1)


def test_top_1_and_top_5_are_counted_over_all_images() -> None:
    ranks = [0, 0, 1, 4, 5, 6, 0]  # the place of the right class among the guesses
    logits = {}
    for number, rank in enumerate(ranks):
        scores = torch.arange(7, 0, -1).float()  # class 0 is the first guess, class 6 the last
        logits[str(number)] = scores.roll(number)
        ranks[number] = (rank + number) % 7
    samples = samples_of(list(logits), logits.__getitem__, ranks)
    accuracy = evaluate(Reading(), eval_loader(samples, 3, 0, False), CPU, progress=False)
    assert accuracy.images == 7
    assert accuracy.top1 == pytest.approx(3 / 7)
    assert accuracy.top5 == pytest.approx(5 / 7)
    expected = nn.functional.cross_entropy(torch.stack(list(logits.values())), torch.tensor(ranks))
    assert accuracy.loss == pytest.approx(float(expected), rel=1e-6)
    assert str(accuracy) == "top-1 42.86%  top-5 71.43%  (7 images)"


def test_of_fewer_than_five_classes_all_are_among_the_first_five() -> None:
    samples = samples_of(["a"], lambda _: torch.tensor([3.0, 2.0, 1.0]), [2])
    accuracy = evaluate(Reading(), eval_loader(samples, 3, 0, False), CPU, progress=False)
    assert (accuracy.top1, accuracy.top5) == (0, 1)


def test_without_mixing_the_loss_is_cross_entropy() -> None:
    logits, labels = torch.randn(3, 4), torch.tensor([0, 3, 1])
    loss = MixedLoss(Mixing(mixup=0, cutmix=0, label_smoothing=0.1), 4, part=3)
    expected = nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(loss(nn.Identity(), Batch(logits, labels, [])), expected)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixed_images_have_mixed_labels(mixup: float, cutmix: float) -> None:
    images = torch.zeros(2, 3, 32, 32)
    images[1] = 1  # so that the mean of an image is its share of the second label
    shares: list[Tensor] = []

    def model(mixed: Tensor) -> Tensor:
        share = mixed.mean(dim=(1, 2, 3))
        shares.append(share)
        return torch.stack([1 - share, share], dim=1).log()

    loss = MixedLoss(Mixing(mixup=mixup, cutmix=cutmix, label_smoothing=0.0), 2, part=2)
    batch = Batch(images.clone(), torch.tensor([0, 1]), [])
    value = loss(model, batch)  # type: ignore[arg-type]
    (share,) = shares
    torch.testing.assert_close(share.sum(), torch.tensor(1.0))
    # Cross entropy is least, the entropy itself, where the labels are shared as the images are.
    entropy = -(share * share.log() + (1 - share) * (1 - share).log()).nan_to_num().mean()
    torch.testing.assert_close(value, entropy, atol=1e-4, rtol=1e-4)


def test_an_odd_number_of_images_cannot_be_mixed() -> None:
    with pytest.raises(InputError, match="need an even number of images at a time, not 3: change batch_size, or give"):
        MixedLoss(Mixing(), 4, part=3)
