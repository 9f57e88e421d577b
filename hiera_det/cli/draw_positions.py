"""Draw one channel of a position embedding at 224 and at a larger size, under each way to fit it.

Without weights the table is made up: a random pattern that repeats with the 8x8 mask unit, as pretrained tables have
one, plus a slow wave.

Examples:
    python tools/draw_positions.py docs/position_embeddings.png
    python tools/draw_positions.py positions.png --weights mae_hiera_base_224.pth --channel 5 --size 800
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hiera_det.errors import InputError
from hiera_det.modeling.hiera import PATCH_STRIDE, UNIT_SIDES
from hiera_det.modeling.position import absolute_win_embed, resize_pos_embed, split_pos_embed, tile_pos_embed
from hiera_det.weights.load import read_contents

GRID = (56, 56)
#: Side in tokens of the part that is shown, from the middle: large enough for some units, small enough to see them.
SHOWN = 40


def made_up_table() -> Tensor:
    """A table ``[1, 56 * 56, 1]`` of a repeating pattern and a slow wave."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(0, 3, GRID[0]), torch.linspace(0, 3, GRID[1]), indexing="ij")
    pattern = torch.randn(UNIT_SIDES[0], UNIT_SIDES[0], generator=generator).repeat(7, 7)
    return (pattern + torch.sin(y) * torch.cos(x)).reshape(1, -1, 1)


def table_of(weights: str, channel: int) -> Tensor:
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


def main() -> None:
    """Draw, and print where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="the picture, ending in .png, .jpg, .pdf or .svg")
    parser.add_argument("--weights", metavar="FILE", help="a file or address whose table is drawn")
    parser.add_argument("--channel", type=int, default=0, help="which channel of it")
    parser.add_argument("--size", type=int, default=1024, help="side of the larger image in pixels")
    args = parser.parse_args()
    if args.size < 224 or args.size % 32:
        raise InputError(f"--size {args.size}: give a multiple of 32 of at least 224")
    draw(table_of(args.weights, args.channel) if args.weights else made_up_table(), args.size, args.out)
    print(args.out)
