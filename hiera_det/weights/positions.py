"""Position embeddings of a file at the sizes that a model has."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from hiera_det.errors import InputError
from hiera_det.modeling.hiera import HieraBase
from hiera_det.modeling.position import resize_pos_embed, resize_temporal_embed, split_pos_embed
from hiera_det.weights.contents import Contents

__all__ = ["guessed_positions", "resample_positions", "split_positions"]

Grid = tuple[int, int]


def split_positions(contents: Contents, tensors: dict[str, Tensor], trunk: HieraBase) -> tuple[str, ...]:
    """Make a plain table the two parts that the model has.

    Args:
        contents: the file.
        tensors: its tensors by our names; the table is replaced by its parts.
        trunk: the model.

    Returns:
        what was done, in words.

    Raises:
        InputError: the table has no whole mask units.
    """
    if trunk.options.pos_embed != "absolute_win" or contents.is_absolute_win or "pos_embed" not in tensors:
        return ()
    grid, unit = _grid(tensors["pos_embed"], "pos_embed", contents.source, contents.grid), trunk.unit_sides[0]
    if grid[0] % unit or grid[1] % unit:
        raise InputError(
            f"weight file {contents.source}: pos_embed is {_by(grid)}, no whole mask units of {unit}x{unit}; "
            "build the trunk with pos_embed interpolate"
        )
    tensors["pos_embed"], tensors["pos_embed_window"] = split_pos_embed(tensors["pos_embed"], grid, unit)
    return (f"pos_embed {_by(grid)} split into its mean {unit}x{unit} unit and the rest",)


def resample_positions(
    contents: Contents, tensors: dict[str, Tensor], expected: Mapping[str, Tensor], trunk: HieraBase
) -> tuple[str, ...]:
    """Bring tables to the model's sizes, also those of as many positions in other rows and columns.

    Args:
        contents: the file.
        tensors: its tensors by our names; tables are replaced.
        expected: the model's tensors.
        trunk: the model.

    Returns:
        what was done, in words.

    Raises:
        InputError: the file does not tell a table's height from its width.
    """
    done = []
    for name, grid in _grids(contents, tensors, expected, trunk).items():
        size = trunk.position_grids()[name]
        if grid != size:
            tensors[name] = _resized(tensors[name], grid, size)
            done.append(f"{name} {_by(grid)} to {_by(size)}")
    over_time = "pos_embed_temporal"
    if over_time in expected and _is_resizable(tensors.get(over_time), expected[over_time]):
        have, want = tensors[over_time].shape[1], expected[over_time].shape[1]
        if have != want:
            tensors[over_time] = resize_temporal_embed(tensors[over_time], want)
            done.append(f"{over_time} {have} to {want}")
    return tuple(done)


def guessed_positions(
    contents: Contents, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], trunk: HieraBase
) -> tuple[str, ...]:
    """Tables taken as they are although they may be square and the model's is not; in words."""
    sizes = trunk.position_grids()
    return tuple(
        f"{name} taken as {_by(grid)}, though the file does not say that it is no square"
        for name, grid in _grids(contents, tensors, expected, trunk).items()
        if contents.grid is None and tensors[name].ndim == 3
        if grid == sizes[name] and grid[0] != grid[1] and math.isqrt(math.prod(grid)) ** 2 == math.prod(grid)
    )


def _grids(
    contents: Contents, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], trunk: HieraBase
) -> dict[str, Grid]:
    """Rows and columns of the file's tables: the model's own for a table like its own, if nothing speaks against it.

    Raises:
        InputError: see `_grid`.
    """
    found = {}
    for name, size in trunk.position_grids().items():
        table = tensors.get(name)
        if table is None or not _is_resizable(table, expected[name]):
            continue
        recorded = _scaled(contents.grid, trunk.pos_grid, size)
        as_ours = recorded is None and table.shape == expected[name].shape
        found[name] = size if as_ours else _grid(table, name, contents.source, recorded)
    return found


def _is_resizable(table: Tensor | None, target: Tensor) -> bool:
    """Whether resampling can make one table the other; else it is refused with all that does not fit."""
    width = 1 if target.ndim == 4 else -1
    return table is not None and table.ndim == target.ndim and table.shape[width] == target.shape[width]


def _scaled(recorded: Grid | None, trunk_grid: Grid, grid: Grid) -> Grid | None:
    """The recorded size of the trunk's table at the stride of another, as the decoder's is."""
    stride = trunk_grid[0] // grid[0]
    return None if recorded is None else (recorded[0] // stride, recorded[1] // stride)


def _resized(table: Tensor, grid: Grid, size: Grid) -> Tensor:
    """A table ``[1, N, C]`` or ``[1, C, H, W]`` resampled, in its own layout."""
    flat = table if table.ndim == 3 else table.flatten(2).transpose(1, 2)
    resized = resize_pos_embed(flat, grid, size)
    return resized.flatten(1, 2) if table.ndim == 3 else resized.permute(0, 3, 1, 2)


def _grid(table: Tensor, name: str, source: str, recorded: Grid | None) -> Grid:
    """Height and width in tokens of a position embedding.

    Raises:
        InputError: the number of tokens is no square, so that nothing in the file tells height from width.
    """
    if table.ndim == 4:
        return table.shape[2], table.shape[3]
    if recorded is not None and math.prod(recorded) == table.shape[1]:
        return recorded
    side = math.isqrt(table.shape[1])
    if side * side != table.shape[1]:
        raise InputError(
            f"weight file {source}: {name} has {table.shape[1]} positions, which is no square; build the trunk with "
            "pretrain_size=(height, width) of the file"
        )
    return side, side


def _by(grid: Grid) -> str:
    return f"{grid[0]}x{grid[1]}"
