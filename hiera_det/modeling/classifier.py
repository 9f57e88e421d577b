"""Classification of images and clips (Ryali et al. 2023, section 4).

The trunk's last tokens, averaged, and a linear layer. Letters: B images, T frames and H, W pixels, C channels.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hiera_det.errors import InputError
from hiera_det.modeling.block import NORM_EPS
from hiera_det.modeling.hiera import HieraBase
from hiera_det.modeling.options import STAGES, HieraOptions

__all__ = ["ClassifierHead", "HieraForClassification"]

#: Factor on the head's initial weights, so that all classes start nearly alike (the authors' ``head_init_scale``).
HEAD_INIT_SCALE = 0.001


class ClassifierHead(nn.Module):
    """Dropout and a linear layer: features ``[B, dim]`` to logits ``[B, num_classes]``."""

    def __init__(self, dim: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``[B, dim]`` to logits ``[B, num_classes]``."""
        return self.projection(self.dropout(x))


class HieraForClassification(HieraBase):
    """A trunk with a classifier: mean over the last stage's tokens, LayerNorm, dropout, linear layer.

    It is a trunk, and not something around one, because the authors' files have the trunk's tensors beside ``norm`` and
    ``head.projection``.

    Args:
        options: as of `Hiera`.
        num_classes: classes.
        dropout: probability of dropping a feature before the linear layer, in training.
        fields: as of `Hiera`, but ``out_features``.

    Raises:
        InputError: a value that cannot be used.

    Example:
        >>> import torch
        >>> from hiera_det import hiera_classifier
        >>> hiera_classifier("tiny", num_classes=10)(torch.zeros(2, 3, 64, 96)).shape
        torch.Size([2, 10])
    """

    def __init__(self, *options: Any, num_classes: int = 1000, dropout: float = 0.0, **fields: Any) -> None:
        if num_classes < 1:
            raise InputError(f"num_classes {num_classes}: must be at least 1; without classes take the trunk, Hiera")
        if not 0.0 <= dropout < 1.0:
            raise InputError(f"dropout {dropout}: must be at least 0 and below 1")
        if "out_features" in fields:
            raise InputError(
                f"out_features {fields['out_features']!r}: a classifier reads {STAGES[-1]}; take Hiera for maps"
            )
        super().__init__(HieraOptions.of(*options, out_features=STAGES[-1:], **fields))
        dim = self.feature_info[-1].channels
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.head = ClassifierHead(dim, num_classes, dropout)
        self.init_weights()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.head.projection.out_features

    def init_weights(self) -> None:
        """Initialise as the authors do: as the trunk, and the head a thousandth of it."""
        super().init_weights()
        for parameter in self.head.parameters():
            parameter.data.mul_(HEAD_INIT_SCALE)

    def forward(self, images: Tensor) -> Tensor:
        """Classify.

        Args:
            images: ``[B, in_channels, H, W]`` or clips ``[B, in_channels, T, H, W]``, normalised, as for `Hiera`.

        Returns:
            logits ``[B, num_classes]``, in training and evaluation alike; the authors' model applies softmax in
            evaluation.

        Raises:
            InputError: images that the trunk cannot take.
        """
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """What the last layer sees of images as for `forward`: the mean of the last tokens, normed, ``[B, C]``."""
        return self.norm(self.maps(self.embed(images))[STAGES[-1]].flatten(2).mean(dim=2))
