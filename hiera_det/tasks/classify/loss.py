"""What a classifier is trained on and judged by: mixed images, soft labels, top-1 and top-5."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hiera_det.engine.loader import unwrap
from hiera_det.engine.processes import sum_over_processes
from hiera_det.engine.progress import evaluating
from hiera_det.engine.stop import Stop
from hiera_det.errors import InputError
from hiera_det.extras import need
from hiera_det.tasks.batches import Batch
from hiera_det.tasks.settings import Mixing

__all__ = ["Accuracy", "MixedLoss", "evaluate"]

#: Axes of a batch with several clips of each video, ``[B, V, 3, T, H, W]``.
CLIPS_NDIM = 6


class MixedLoss:
    """Cross entropy on a batch that has been mixed.

    Args:
        mixing: how.
        num_classes: classes.
        part: images at a time.
        word: a field of ``mixing`` to what the user calls that, for messages.

    Raises:
        InputError: ``part`` is odd, and images are mixed in pairs; or timm, which mixes, is not installed.
    """

    def __init__(self, mixing: Mixing, num_classes: int, part: int, word: Callable[[str], str] = str) -> None:
        self.label_smoothing = mixing.label_smoothing
        self.mix: Callable[..., tuple[Tensor, Tensor]] | None = None
        if not (mixing.mixup or mixing.cutmix):
            return
        mixup, cutmix = word("mixup"), word("cutmix")
        need("timm", f"{mixup} and {cutmix} (without: {mixup} 0 {cutmix} 0)")
        if part % 2:
            raise InputError(
                f"{mixup} and {cutmix} need an even number of images at a time, not {part}: change "
                f"{word('batch_size')}, or give {mixup} 0 {cutmix} 0"
            )
        from timm.data import Mixup

        self.mix = Mixup(
            mixup_alpha=mixing.mixup,
            cutmix_alpha=mixing.cutmix,
            label_smoothing=mixing.label_smoothing,
            num_classes=num_classes,
        )

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean loss of a batch."""
        inputs, labels = batch.inputs, batch.labels
        if inputs.ndim == CLIPS_NDIM:  # the clips of a video one by one
            inputs, labels = inputs.flatten(0, 1), labels.repeat_interleave(inputs.shape[1])
        if self.mix is None:
            return F.cross_entropy(model(inputs), labels, label_smoothing=self.label_smoothing)
        # timm pastes rectangles of maps: the frames of a clip are one
        mixed, soft = self.mix(inputs.flatten(1, -3), labels)  # labels [B, classes], which timm has smoothed
        return F.cross_entropy(model(mixed.view(inputs.shape)), soft)


@dataclass(frozen=True)
class Accuracy:
    """How well a classifier does.

    Attributes:
        top1: part of the images whose class is the first guess, from 0 to 1.
        top5: part whose class is among the first five guesses; of fewer classes, among all.
        loss: mean cross entropy.
        images: how many there were.
    """

    top1: float
    top5: float
    loss: float
    images: int

    def __str__(self) -> str:
        """One line for the log."""
        return f"top-1 {100 * self.top1:.2f}%  top-5 {100 * self.top5:.2f}%  ({self.images} images)"


def evaluate(
    model: nn.Module,
    loader: DataLoader[Any],
    device: torch.device,
    progress: bool = True,
    stop: Stop | None = None,
) -> Accuracy:
    """Classify every image once, in float32, and compare.

    Args:
        model: a classifier; it is in evaluation mode afterwards.
        loader: this process's images, of `hiera_det.tasks.batches.eval_loader`.
        device: where the model is.
        progress: show a bar with the time left, in the main process.
        stop: what ends it early.

    Returns:
        the accuracy over the images of all processes.

    Raises:
        InputError: an image cannot be read, or none can where they are left out.
        StopRequested: a signal came, to whichever process.
    """
    stop = stop or Stop()
    model.eval()
    totals = torch.zeros(4, dtype=torch.float64)
    for batch in stop.cut(evaluating(loader) if progress else loader):
        if batch is not None:
            totals += _counts(model, unwrap(batch), device)
    stop.settle(device)
    top1, top5, loss, count = sum_over_processes(totals.to(device)).tolist()
    if not count:
        raise InputError("none of the images to evaluate on can be read")
    return Accuracy(top1 / count, top5 / count, loss / count, round(count))


@torch.inference_mode()
def _counts(model: nn.Module, batch: Batch, device: torch.device) -> Tensor:
    """Of a batch: first guesses that are right, those among five, summed loss and images."""
    logits = _logits(model, batch.inputs.to(device)).cpu()
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices == batch.labels[:, None]
    loss = F.cross_entropy(logits, batch.labels, reduction="sum")
    return torch.tensor([best[:, 0].sum(), best.sum(), loss, len(logits)], dtype=torch.float64)


def _logits(model: nn.Module, inputs: Tensor) -> Tensor:
    """Of images; of videos the logarithm of the mean probabilities over their views, one view at a time."""
    if inputs.ndim < CLIPS_NDIM:
        return model(inputs).float()
    views = [model(view).float().softmax(dim=1) for view in inputs.unbind(1)]
    return torch.stack(views).mean(dim=0).log()
