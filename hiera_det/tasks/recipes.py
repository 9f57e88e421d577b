"""The published recipes as data (Ryali et al. 2023, Table 14 and appendix A).

What the tables leave out, such as the warm-up and the batch of fine-tuning, is from the first author's training code
(dbolya/hiera, branch v0.2.0). Learning rates are those of the recipe's batch and are scaled linearly to the batch at
hand, as there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hiera_det.modeling.variants import VARIANTS

__all__ = ["FINETUNING", "PRETRAINING", "Recipe", "Recipes", "scaled_lr", "warmup_for"]


@dataclass(frozen=True)
class Recipe:
    """How one size is trained.

    Attributes:
        lr: learning rate at ``lr_batch``.
        lr_batch: the batch that it is for, in images.
        epochs: passes over the images.
        warmup_epochs: of these, those in which the rate rises linearly from 0.
        drop_path_rate: stochastic depth of the last block.
        layer_decay: factor on the learning rate from a block to the one before it; 1 for none.
        betas: of AdamW.
        weight_decay: of AdamW, for all but norms, biases and position embeddings.
    """

    lr: float
    lr_batch: int
    epochs: int
    warmup_epochs: float
    drop_path_rate: float
    layer_decay: float
    betas: tuple[float, float]
    weight_decay: float = 0.05


class Recipes(dict[str, Recipe]):
    """Recipes by size. A size that none was published for has that of the published one next to it in weights."""

    def __missing__(self, size: str) -> Recipe:
        return self[self.nearest(size)]

    def nearest(self, size: str) -> str:
        """The published size whose recipe a size takes, which is its own where it has one."""
        own = _block_weights(size)
        return min(self, key=lambda published: abs(math.log(_block_weights(published) / own)))


def _block_weights(size: str) -> int:
    """Weights of a size's blocks, up to a factor that is the same for all: blocks times channels squared."""
    variant = VARIANTS[size]
    return sum(blocks * (variant.embed_dim << stage) ** 2 for stage, blocks in enumerate(variant.depths))


def _pretraining(drop_path_rate: float) -> Recipe:
    return Recipe(8e-4, 4096, 1600, 40, drop_path_rate, 1.0, (0.9, 0.95))


def _finetuning(lr: float, epochs: int, layer_decay: float, drop_path_rate: float = 0.1) -> Recipe:
    return Recipe(lr, 1024, epochs, 5, drop_path_rate, layer_decay, (0.9, 0.999))


#: MAE on ImageNet-1k by size.
PRETRAINING = Recipes(
    tiny=_pretraining(0.0),
    small=_pretraining(0.0),
    base=_pretraining(0.2),
    base_plus=_pretraining(0.2),
    large=_pretraining(0.2),
    huge=_pretraining(0.3),
)
#: Classification on ImageNet-1k, from MAE weights, by size.
FINETUNING = Recipes(
    tiny=_finetuning(2e-3, 300, 0.65),
    small=_finetuning(2e-3, 200, 0.65),
    base=_finetuning(2e-3, 100, 0.7),
    base_plus=_finetuning(1e-3, 100, 0.7),
    large=_finetuning(1e-3, 50, 0.85),
    huge=_finetuning(1e-3, 50, 0.85, 0.3),
)


def scaled_lr(lr: float, lr_batch: int, batch_size: int, power: float = 1.0) -> float:
    """A learning rate for another batch, linearly; with a ``power`` of 0.5 by the square root."""
    return lr * float(batch_size**power) / float(lr_batch**power)


def warmup_for(epochs: int, recipe: Recipe) -> float:
    """Warm-up epochs of a run: the recipe's, but at most the share that they are of the recipe's own epochs, or 5%."""
    share = max(0.05, recipe.warmup_epochs / recipe.epochs)
    return min(recipe.warmup_epochs, share * epochs)
