"""The leading blocks, which attend inside mask units only, on some rows of units at a time.

No token looks beyond its unit there, so that the result is the same; the buffers stay in the cache and are used again,
where the whole image's would be fetched anew from the system by every layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from typing import Protocol

from torch import Tensor, nn

from hiera_det.modeling.fast.paths import Kernel, Path, choose, untouched
from hiera_det.modeling.tokens import Tokens

__all__ = ["run_in_slabs", "use_slabs"]

#: Tokens of stage 1 that the blocks take at a time.
SLAB_TOKENS = 8192


class Run(Protocol):
    """Runs blocks from ``first`` to before ``last``: gives each one's number and the tokens after it."""

    def __call__(self, tokens: Tokens, first: int = 0, last: int | None = None) -> Iterator[tuple[int, Tokens]]: ...


def use_slabs(blocks: Iterable[nn.Module], local: int, tokens: Tokens) -> bool:
    """Whether the first ``local`` blocks are sooner done so, and nobody looks at the whole between or draws numbers."""
    if not local or tokens.kept is not None or choose(Path.SLABS, tokens.x) is not Kernel.FAST:
        return False
    modules = [module for block in itertools.islice(blocks, local) for module in block.modules()]
    if any(getattr(module, "window", 1) != 1 for module in modules):  # set, or put in place, since the trunk was built
        return False
    return tokens.x.numel() > 0 and untouched(*modules) and not any(module.training for module in modules)


def run_in_slabs(run: Run, local: int, tokens: Tokens, wanted: Collection[int]) -> Iterator[tuple[int, Tokens]]:
    """Run the first blocks on one slab after the other, then the rest on the whole image.

    Args:
        run: the trunk's loop.
        local: how many blocks look at nothing beyond their mask unit.
        tokens: as embedded.
        wanted: the blocks whose tokens are wanted.

    Yields:
        of the first ones the wanted blocks', then every block's number and the tokens after it.
    """
    batch, _, channels = tokens.x.shape
    slabs = tokens.x.view(-1, tokens.grid.group * tokens.grid.cols * tokens.unit_tokens, channels)
    whole: dict[int, Tensor] = {}
    after: dict[int, Tokens] = {}
    for start in range(0, len(slabs), at_once := max(1, SLAB_TOKENS // slabs.shape[1])):
        slab = slabs[start : start + at_once]
        for i, part in run(tokens.moved(slab.reshape(1, -1, channels), tokens.strides), last=local):
            if i in wanted or i == local - 1:
                x = part.x.view(len(slab), -1, part.x.shape[2])
                whole.setdefault(i, x.new_empty(len(slabs), *x.shape[1:]))[start : start + at_once] = x
                after[i] = part
    for i, part in after.items():
        tokens = part.moved(whole[i].view(batch, -1, part.x.shape[2]), part.strides)
        yield i, tokens
    yield from run(tokens, first=local)
