"""Parts of a trunk that do not learn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from hiera_det.errors import InputError
from hiera_det.modeling.options import STAGES, HieraOptions

__all__ = ["Freezable"]


class Freezable(nn.Module):
    """A trunk some parts of which can be frozen.

    Attributes:
        frozen: the parts that do not learn, as `freeze` names them.
    """

    options: HieraOptions
    blocks: nn.ModuleList

    def __init__(self) -> None:
        super().__init__()
        self.frozen: tuple[str, ...] = ()

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay should leave alone, besides norms: the position embedding's."""
        table = re.compile(r"pos_embed|parametrizations\.pos_embed\w*\.original")
        return {name for name, _ in self.named_parameters() if table.match(name)}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """How timm's ``param_groups_layer_decay`` tells stem, blocks and what comes after from each other."""
        return {"stem": r"^(?:pos_embed|patch_embed)", "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]}

    def freeze(self, stages: int | Sequence[str]) -> None:
        """Stop learning in some parts: their parameters get no gradients and drop no paths, in training mode too.

        Args:
            stages: 0 for the stem and the position embedding, n for the first n stages too; or the parts by name, some
                of ``stem``, ``positions``, ``stage1`` ... ``stage4``. They come to those frozen before.

        Raises:
            InputError: another number or name.
        """
        known = ("stem", "positions", *STAGES)
        parts = known[: 2 + stages] if type(stages) is int and 0 <= stages <= len(STAGES) else stages  # True is no 1
        if isinstance(parts, int | str) or any(part not in known for part in parts):
            raise InputError(f"freeze {stages!r}: give a number of stages, 0 to 4, or some of {', '.join(known)}")
        self.frozen = tuple(part for part in known if part in self.frozen or part in parts)
        if "positions" in self.frozen:
            for name in self.no_weight_decay():
                self.get_parameter(name).requires_grad_(False)
        for module in self._frozen_modules():
            module.requires_grad_(False)
        self.train(self.training)

    def check_blocks(self) -> None:
        """Refuse a trunk with fewer or more blocks than it was built with: it no longer knows where a stage ends.

        Raises:
            InputError: both numbers.
        """
        if (have := len(self.blocks)) != (built := len(self.options.block_stages)):
            raise InputError(
                f"trunk.blocks: {have} blocks, and the trunk was built with {built}; leave one out by "
                "trunk.blocks[i] = torch.nn.Identity(), or build it with other depths"
            )

    def train(self, mode: bool = True) -> Freezable:
        """As of `torch.nn.Module`; frozen parts stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        """The stem and the blocks that do not learn."""
        self.check_blocks()
        stages = zip(self.options.block_stages, self.blocks, strict=True)
        blocks = [block for stage, block in stages if STAGES[stage] in self.frozen]
        return [self.get_submodule("patch_embed"), *blocks] if "stem" in self.frozen else blocks
