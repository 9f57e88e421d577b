"""A picture of one channel of a position embedding at two sizes, under each way to fit it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hiera_det.errors import InputError
from hiera_det.files import StrPath
from hiera_det.modeling.hiera import PATCH_STRIDE, UNIT_SIDES
from hiera_det.modeling.position import absolute_win_embed, resize_pos_embed, split_pos_embed, tile_pos_embed
from hiera_det.weights.load import read_contents

__all__ = ["draw", "made_up_table", "table_of"]

GRID = (56, 56)
#: Side in tokens of the part that is shown, from the middle: large enough for some units, small enough to see them.
SHOWN = 40


def made_up_table() -> Tensor:
    """A table ``[1, 56 * 56, 1]`` of a repeating pattern and a slow wave."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(0, 3, GRID[0]), torch.linspace(0, 3, GRID[1]), indexing="ij")
    pattern = torch.randn(UNIT_SIDES[0], UNIT_SIDES[0], generator=generator).repeat(7, 7)
    return (pattern + torch.sin(y) * torch.cos(x)).reshape(1, -1, 1)


def table_of(weights: StrPath, channel: int) -> Tensor:
    """One channel of a file's table, ``[1, 56 * 56, 1]``."""
    contents = read_contents(weights)
    table = contents.trunk.get("pos_embed")
    if table is None or table.shape[1] != GRID[0] * GRID[1]:
        raise InputError(f"--weights {weights}: its position embedding is no plain table of 56x56")
    if not 0 <= channel < table.shape[2]:
        raise InputError(f"--channel {channel}: the embedding has {table.shape[2]}")
    return table[:, :, channel : channel + 1].float()


def fitted(table: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
    """The table at a size in tokens, by the name of the way it was fitted."""
    return {
        "interpolate": resize_pos_embed(table, GRID, size),
        "tile": tile_pos_embed(table, GRID, size),
        "absolute_win": absolute_win_embed(*split_pos_embed(table, GRID, UNIT_SIDES[0]), size, antialias=False),
    }


def draw(table: Tensor, pixels: int, out: Path) -> None:
    """A row for 224 and one for the other size; lines part the mask units."""
    from matplotlib import pyplot

    low, high = table.min().item(), table.max().item()
    figure, axes = pyplot.subplots(2, 3, figsize=(9, 6.4), layout="constrained")
    for row, side in zip(axes, (224, pixels), strict=True):
        tokens = side // PATCH_STRIDE
        for axis, (name, map_) in zip(row, fitted(table, (tokens, tokens)).items(), strict=True):
            first = (tokens - SHOWN) // 2 // UNIT_SIDES[0] * UNIT_SIDES[0]
            part = map_[0, first : first + SHOWN, first : first + SHOWN, 0]
            _draw_map(axis, part, low, high)
            axis.set_title(f"{name}, {side}x{side}", fontsize=10)
    figure.suptitle(f"{SHOWN}x{SHOWN} tokens from the middle; lines part the mask units", fontsize=10)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=110)
    except (OSError, ValueError) as error:
        raise InputError(f"{out}: cannot be written ({error})") from None
    finally:
        pyplot.close(figure)


def _draw_map(axis: Any, part: Tensor, low: float, high: float) -> None:
    """One map with its mask units."""
    axis.imshow(part.detach().numpy(), vmin=low, vmax=high, cmap="viridis", interpolation="nearest")
    for line in range(UNIT_SIDES[0], SHOWN, UNIT_SIDES[0]):
        axis.axhline(line - 0.5, color="white", linewidth=0.7)
        axis.axvline(line - 0.5, color="white", linewidth=0.7)
    axis.set_xticks([])
    axis.set_yticks([])
