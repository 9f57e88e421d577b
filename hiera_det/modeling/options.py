"""The settings of a trunk: refused where they cannot be built, and turned into what each block is made with.

Every function that refuses raises `InputError`, which names the setting and what it may be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from hiera_det.errors import InputError
from hiera_det.modeling.block import HieraBlock

__all__ = [
    "FRAME_STRIDE",
    "PATCH_STRIDE",
    "POS_EMBEDS",
    "STAGES",
    "UNIT_SIDES",
    "block_windows",
    "build_blocks",
    "check_depths",
    "check_positions",
    "check_units",
    "check_windows",
    "checkpoint_stages",
    "common_window",
    "stage_names",
    "widths",
]

STAGES = ("stage1", "stage2", "stage3", "stage4")
POS_EMBEDS = ("interpolate", "tile", "absolute_win")
WINDOW_PADDINGS = ("zero", "mask")
PATCH_STRIDE = 4
#: Side of a mask unit of the published models in tokens, in stages 1-4.
UNIT_SIDES = (8, 4, 2, 1)
#: Frames per token of a video trunk.
FRAME_STRIDE = 2


def stage_names(out_features: Sequence[str | int]) -> tuple[str, ...]:
    """The stages asked for, by name; refuses what is none."""
    names = tuple(f"stage{name}" if isinstance(name, int) else name for name in out_features)
    unknown = [name for name in names if name not in STAGES]
    if isinstance(out_features, str) or unknown or not names or len(set(names)) != len(names):
        raise InputError(f"out_features {out_features!r}: give one or more of {', '.join(STAGES)}, each once")
    return names


def check_depths(depths: Sequence[int], drop_path_rate: float) -> None:
    """Refuse numbers of blocks that cannot be built."""
    if len(depths) != len(STAGES) or any(depth < 1 for depth in depths):
        raise InputError(f"depths {tuple(depths)}: give four numbers of blocks, each at least 1")
    if not 0.0 <= drop_path_rate < 1.0:
        raise InputError(f"drop_path_rate {drop_path_rate}: must be at least 0 and below 1")


def widths(
    embed_dim: int, num_heads: int | Sequence[int], dim_mul: float, project_shortcut: bool
) -> tuple[list[int], list[int]]:
    """Channels and attention heads of stages 1-4; refuses those that cannot be built."""
    dims = [embed_dim * dim_mul**stage for stage in range(len(STAGES))]
    if dim_mul <= 1 or any(dim != int(dim) for dim in dims):
        raise InputError(f"dim_mul {dim_mul}: must be above 1 and give whole channels from {embed_dim}, not {dims}")
    if dim_mul != 2 and not project_shortcut:
        raise InputError(f"dim_mul {dim_mul}: without a projected shortcut the channels double; set it to 2")
    heads = [num_heads << stage for stage in range(len(STAGES))] if isinstance(num_heads, int) else list(num_heads)
    if len(heads) != len(STAGES):
        raise InputError(f"num_heads {tuple(heads)}: give one number, which doubles per stage, or four")
    if embed_dim < 1 or any(count < 1 or dim % count for dim, count in zip(dims, heads, strict=True)):
        by_stage = "" if isinstance(num_heads, int) else f" at each stage (channels {[int(dim) for dim in dims]})"
        raise InputError(f"embed_dim {embed_dim}: must be a positive multiple of num_heads {num_heads}{by_stage}")
    return [int(dim) for dim in dims], heads


def check_units(q_pool: int, q_stride: int, mask_unit_size: int) -> None:
    """Refuse mask units that the poolings do not divide."""
    transitions = len(STAGES) - 1
    if not 0 <= q_pool <= transitions:
        raise InputError(f"q_pool {q_pool}: must be 0 to {transitions}, the number of transitions that pool")
    for name, side in (("q_stride", q_stride), ("mask_unit_size", mask_unit_size)):
        if not isinstance(side, int) or side < 1:
            raise InputError(f"{name} {side!r}: give one side of a square in tokens, a whole number of at least 1")
    if mask_unit_size % q_stride**q_pool:
        raise InputError(
            f"mask_unit_size {mask_unit_size}: must be a multiple of {q_stride**q_pool}, which q_pool {q_pool} "
            f"poolings of q_stride {q_stride} make one token"
        )


def check_positions(pretrain_size: int | Sequence[int], pos_embed: str, pos_grid: Sequence[int], frames: int) -> None:
    """Refuse a position embedding that cannot be built."""
    sides = (pretrain_size, pretrain_size) if isinstance(pretrain_size, int) else tuple(pretrain_size)
    if len(sides) != 2 or any(side < 1 or side % PATCH_STRIDE for side in sides):
        raise InputError(f"pretrain_size {pretrain_size}: must be a positive multiple of {PATCH_STRIDE}, or two")
    if pos_embed not in POS_EMBEDS:
        raise InputError(f"pos_embed {pos_embed!r}: choose one of {', '.join(POS_EMBEDS)}")
    if len(pos_grid) != 2 or any(side < 1 for side in pos_grid):
        raise InputError(f"pos_grid {tuple(pos_grid)}: give height and width in tokens")
    if frames < 0 or frames % FRAME_STRIDE:
        raise InputError(f"frames {frames}: must be 0 for images, or a positive multiple of {FRAME_STRIDE}")
    if frames and pos_embed != "interpolate":
        raise InputError(f'pos_embed {pos_embed!r}: a video trunk (frames {frames}) has "interpolate" only')


def checkpoint_stages(use_checkpoint: bool | Sequence[str]) -> tuple[str, ...]:
    """The stages whose blocks are recomputed in the backward pass."""
    if isinstance(use_checkpoint, bool):
        return STAGES if use_checkpoint else ()
    if isinstance(use_checkpoint, str) or any(name not in STAGES for name in use_checkpoint):
        raise InputError(f"use_checkpoint {use_checkpoint!r}: give True, False or some of {', '.join(STAGES)}")
    return tuple(use_checkpoint)


def check_windows(
    depths: Sequence[int],
    window_size: Sequence[int],
    unit_sides: Sequence[int],
    global_blocks: Sequence[int],
    window_padding: str,
    frames: int,
) -> None:
    """Refuse windows that cannot be cut."""
    if window_padding not in WINDOW_PADDINGS:
        raise InputError(f"window_padding {window_padding!r}: choose one of {', '.join(WINDOW_PADDINGS)}")
    if len(window_size) != len(STAGES) or any(
        size < 0 or size % unit for size, unit in zip(window_size, unit_sides, strict=True)
    ):
        sides = tuple(unit_sides)
        raise InputError(
            f"window_size {tuple(window_size)}: give four sides in tokens, multiples of {sides}, 0 for global"
        )
    if frames and any(size > unit for size, unit in zip(window_size, unit_sides, strict=True)):
        raise InputError(f"window_size {tuple(window_size)}: a video trunk (frames {frames}) has no larger windows")
    pooling = [sum(depths[:stage]) for stage in range(1, len(STAGES))]
    for block in global_blocks:
        if not 0 <= block < sum(depths) or (block in pooling and window_size[pooling.index(block)]):
            raise InputError(
                f"global_blocks {tuple(global_blocks)}: {block} must be in 0 to {sum(depths) - 1} and not the first of "
                f"a stage ({', '.join(map(str, pooling))})"
            )


def block_windows(
    depths: Sequence[int], window_size: Sequence[int], unit_sides: Sequence[int], global_blocks: Sequence[int]
) -> list[int]:
    """Each block's window side in mask units, 0 for global; a stage's first block has the window of the one before."""
    sides = [size // unit for size, unit in zip(window_size, unit_sides, strict=True)]
    windows = [
        sides[stage - 1 if stage and i == 0 else stage] for stage, depth in enumerate(depths) for i in range(depth)
    ]
    return [0 if block in global_blocks else window for block, window in enumerate(windows)]


def common_window(windows: Sequence[int]) -> int:
    """The side in units of all windows of several units, where they are alike; otherwise 1."""
    larger = {window for window in windows if window > 1}
    return larger.pop() if len(larger) == 1 else 1


def build_blocks(
    dims: Sequence[int],
    heads: Sequence[int],
    depths: Sequence[int],
    mlp_ratio: float,
    drop_path_rate: float,
    windows: Sequence[int],
    token_strides: Sequence[int],
    mask_unit_size: int,
    options: Mapping[str, bool],
) -> list[HieraBlock]:
    """All blocks of the four stages; the first of a stage widens, and pools where the stage's tokens are larger."""
    rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
    blocks: list[HieraBlock] = []
    for stage, depth in enumerate(depths):
        for i in range(depth):
            before = max(0, stage - 1) if i == 0 else stage
            blocks.append(
                HieraBlock(
                    dims[before],
                    dims[stage],
                    heads[stage],
                    mlp_ratio,
                    rates[len(blocks)],
                    (mask_unit_size // token_strides[before]) ** 2,
                    (token_strides[stage] // token_strides[before]) ** 2,
                    windows[len(blocks)],
                    **options,
                )
            )
    return blocks
