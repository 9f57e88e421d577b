"""The settings of a trunk, checked once, and what follows from them for each stage and block."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from hiera_det.errors import InputError

__all__ = ["FRAME_STRIDE", "PATCH_STRIDE", "POS_EMBEDS", "STAGES", "UNIT_SIDES", "Feature", "HieraOptions"]

STAGES = ("stage1", "stage2", "stage3", "stage4")
POS_EMBEDS = ("interpolate", "tile", "absolute_win")
WINDOW_PADDINGS = ("zero", "mask")
PATCH_STRIDE = 4
#: Side of a mask unit of the published models in tokens, in stages 1-4.
UNIT_SIDES = (8, 4, 2, 1)
#: Frames per token of a video trunk.
FRAME_STRIDE = 2


@dataclass(frozen=True)
class Feature:
    """One output map: its name, its channels and its stride in pixels."""

    name: str
    channels: int
    stride: int


@dataclass(frozen=True)
class HieraOptions:
    """What a trunk is built from; the rest of the family is built from it too.

    Args:
        embed_dim: channels of stage 1; times ``dim_mul`` per stage.
        num_heads: attention heads of stage 1, which double per stage; or those of stages 1-4.
        depths: blocks in stages 1-4.
        out_features: the stages to return, any subset of ``stage1`` ... ``stage4`` or of their numbers 1 ... 4, in the
            order wanted. Stages after the last one asked for are not built, so that every parameter gets a gradient.
        in_channels: channels of the images.
        mlp_ratio: hidden width of the MLPs over their channels.
        drop_path_rate: stochastic depth, 0 at the first block and this at the last.
        pretrain_size: image side, or height and width, in pixels that the position embedding is learned at.
        use_checkpoint: recompute each block in the backward pass instead of keeping its activations; or the stages
            whose blocks are recomputed, such as ``("stage1", "stage2")``, where most of the memory is.
        recompute_gelu: stages whose blocks compute the GELU of their MLP, a quarter of what is kept, anew in the
            backward pass, for one more pass over the MLP's hidden layer.
        pos_embed: ``interpolate`` for one table that is resampled, ``tile`` for one that is repeated, ``absolute_win``
            for a part that repeats with the mask unit plus a resampled one (see `hiera_det.modeling.position`).
        pos_grid: height and width in tokens of the resampled part of ``absolute_win``.
        pos_antialias: resample that part with antialiasing, as timm's weights expect; SAM 2's expect none.
        window_size: sides of the attention windows of stages 1-4 in tokens, multiples of the mask unit's at that
            stage, 0 for global attention; None for mask units in stages 1 and 2 and global attention after. The first
            block of a stage attends as the stage before, then pools.
        global_blocks: blocks, counted from 0 over all stages, that attend globally whatever their stage's window.
        window_padding: what windows that reach over the image's edge do with the missing tokens: ``zero`` attends to
            them, as SAM 2's weights expect; ``mask`` leaves them out.
        layer_scale: scale the residual branches by learned factors.
        project_shortcut: see `hiera_det.modeling.block.HieraBlock`.
        frames: length in frames of the clips that a video trunk's position embedding is learned at; 0 for images.
        dim_mul: channels of a stage over those of the stage before.
        q_pool: how many of the three transitions between stages pool, the first ones; 2 in the authors' MAE models,
            whose stage 4 keeps the size of stage 3.
        q_stride: side of the square of tokens that a pooling makes one.
        mask_unit_size: side of a mask unit in tokens of stage 1, a multiple of ``q_stride ** q_pool``. Height and width
            of images must be multiples of 4 times it.

    Raises:
        InputError: a value that cannot be used, named with the choices.
    """

    embed_dim: int
    num_heads: int | Sequence[int]
    depths: Sequence[int]
    _: KW_ONLY
    out_features: Sequence[str | int] = STAGES
    in_channels: int = 3
    mlp_ratio: float = 4.0
    drop_path_rate: float = 0.0
    pretrain_size: int | Sequence[int] = 224
    use_checkpoint: bool | Sequence[str] = False
    recompute_gelu: Sequence[str] = ()
    pos_embed: str = "interpolate"
    pos_grid: Sequence[int] = (7, 7)
    pos_antialias: bool = False
    window_size: Sequence[int] | None = None
    global_blocks: Sequence[int] = ()
    window_padding: str = "zero"
    layer_scale: bool = False
    project_shortcut: bool = True
    frames: int = 0
    dim_mul: float = 2.0
    q_pool: int = len(STAGES) - 1
    q_stride: int = 2
    mask_unit_size: int = UNIT_SIDES[0]

    @classmethod
    def of(cls, *options: Any, **fields: Any) -> HieraOptions:
        """Options, or options with some fields in place of their own, or the fields alone as the class takes them."""
        if options and isinstance(options[0], HieraOptions):
            return options[0].replace(**fields)
        return cls(*options, **fields)

    def replace(self, **fields: Any) -> HieraOptions:
        """The same options but for the fields given, checked anew."""
        return dataclasses.replace(self, **fields)

    def __post_init__(self) -> None:
        """Refuse what cannot be built; lists become tuples."""
        self._check_depths()
        self._check_outputs()
        self._check_units()
        self._check_widths()
        self._check_positions()
        self._check_windows()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Sequence) and not isinstance(value, str):
                object.__setattr__(self, field.name, tuple(value))
        object.__setattr__(self, "out_features", stage_names(self.out_features))

    def _check_depths(self) -> None:
        if len(self.depths) != len(STAGES) or any(depth < 1 for depth in self.depths):
            raise InputError(f"depths {tuple(self.depths)}: give four numbers of blocks, each at least 1")
        if not 0.0 <= self.drop_path_rate < 1.0:
            raise InputError(f"drop_path_rate {self.drop_path_rate}: must be at least 0 and below 1")

    def _check_outputs(self) -> None:
        names = stage_names(self.out_features)
        unknown = [name for name in names if name not in STAGES]
        if isinstance(self.out_features, str) or unknown or not names or len(set(names)) != len(names):
            raise InputError(f"out_features {self.out_features!r}: give one or more of {', '.join(STAGES)}, each once")
        stages = self.use_checkpoint
        if not isinstance(stages, bool) and (isinstance(stages, str) or any(name not in STAGES for name in stages)):
            raise InputError(f"use_checkpoint {stages!r}: give True, False or some of {', '.join(STAGES)}")
        stages = self.recompute_gelu
        if isinstance(stages, str) or any(name not in STAGES for name in stages):
            raise InputError(f"recompute_gelu {stages!r}: give some of {', '.join(STAGES)}, or none")

    def _check_units(self) -> None:
        transitions = len(STAGES) - 1
        if not 0 <= self.q_pool <= transitions:
            raise InputError(f"q_pool {self.q_pool}: must be 0 to {transitions}, the number of transitions that pool")
        for name in ("q_stride", "mask_unit_size"):
            side = getattr(self, name)
            if not isinstance(side, int) or side < 1:
                raise InputError(f"{name} {side!r}: give one side of a square in tokens, a whole number of at least 1")
        if self.mask_unit_size % self.q_stride**self.q_pool:
            raise InputError(
                f"mask_unit_size {self.mask_unit_size}: must be a multiple of {self.q_stride**self.q_pool}, which "
                f"q_pool {self.q_pool} poolings of q_stride {self.q_stride} make one token"
            )

    def _check_widths(self) -> None:
        dims = [self.embed_dim * self.dim_mul**stage for stage in range(len(STAGES))]
        if self.dim_mul <= 1 or any(dim != int(dim) for dim in dims):
            raise InputError(
                f"dim_mul {self.dim_mul}: must be above 1 and give whole channels from {self.embed_dim}, not {dims}"
            )
        if self.dim_mul != 2 and not self.project_shortcut:
            raise InputError(f"dim_mul {self.dim_mul}: without a projected shortcut the channels double; set it to 2")
        heads = self.heads
        if len(heads) != len(STAGES):
            raise InputError(f"num_heads {heads}: give one number, which doubles per stage, or four")
        if self.embed_dim < 1 or any(count < 1 or dim % count for dim, count in zip(dims, heads, strict=True)):
            by_stage = "" if isinstance(self.num_heads, int) else f" at each stage (channels {list(self.dims)})"
            raise InputError(
                f"embed_dim {self.embed_dim}: must be a positive multiple of num_heads {self.num_heads}{by_stage}"
            )

    def _check_positions(self) -> None:
        sides = self.pretrain_sides
        if len(sides) != 2 or any(side < 1 or side % PATCH_STRIDE for side in sides):
            raise InputError(
                f"pretrain_size {self.pretrain_size}: must be a positive multiple of {PATCH_STRIDE}, or two"
            )
        if self.pos_embed not in POS_EMBEDS:
            raise InputError(f"pos_embed {self.pos_embed!r}: choose one of {', '.join(POS_EMBEDS)}")
        if len(self.pos_grid) != 2 or any(side < 1 for side in self.pos_grid):
            raise InputError(f"pos_grid {tuple(self.pos_grid)}: give height and width in tokens")
        if self.frames < 0 or self.frames % FRAME_STRIDE:
            raise InputError(f"frames {self.frames}: must be 0 for images, or a positive multiple of {FRAME_STRIDE}")
        if self.frames and self.pos_embed != "interpolate":
            raise InputError(
                f'pos_embed {self.pos_embed!r}: a video trunk (frames {self.frames}) has "interpolate" only'
            )

    def _check_windows(self) -> None:
        if self.window_padding not in WINDOW_PADDINGS:
            raise InputError(f"window_padding {self.window_padding!r}: choose one of {', '.join(WINDOW_PADDINGS)}")
        sizes, units = self.window_sizes, self.unit_sides
        if len(sizes) != len(STAGES) or any(size < 0 or size % unit for size, unit in zip(sizes, units, strict=True)):
            raise InputError(f"window_size {sizes}: give four sides in tokens, multiples of {units}, 0 for global")
        if self.frames and any(size > unit for size, unit in zip(sizes, units, strict=True)):
            raise InputError(f"window_size {sizes}: a video trunk (frames {self.frames}) has no larger windows")
        total, pooling = sum(self.depths), [sum(self.depths[:stage]) for stage in range(1, len(STAGES))]
        for block in self.global_blocks:
            if not 0 <= block < total or (block in pooling and sizes[pooling.index(block)]):
                raise InputError(
                    f"global_blocks {tuple(self.global_blocks)}: {block} must be in 0 to {total - 1} and not the first "
                    f"of a stage ({', '.join(map(str, pooling))})"
                )

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels of stages 1-4."""
        return tuple(int(self.embed_dim * self.dim_mul**stage) for stage in range(len(STAGES)))

    @property
    def heads(self) -> tuple[int, ...]:
        """Attention heads of stages 1-4."""
        if isinstance(self.num_heads, int):
            return tuple(self.num_heads << stage for stage in range(len(STAGES)))
        return tuple(self.num_heads)

    @property
    def pretrain_sides(self) -> tuple[int, ...]:
        """Height and width in pixels that the position embedding is learned at."""
        size = self.pretrain_size
        return (size, size) if isinstance(size, int) else tuple(size)

    @property
    def table_grid(self) -> tuple[int, int]:
        """Height and width in tokens of the table of positions that is resampled."""
        height, width = self.pretrain_sides
        if self.pos_embed == "absolute_win":
            height, width = (PATCH_STRIDE * side for side in self.pos_grid)
        return height // PATCH_STRIDE, width // PATCH_STRIDE

    @property
    def token_strides(self) -> tuple[int, ...]:
        """Side in tokens of stage 1 of what is one token in stages 1-4."""
        return tuple(self.q_stride ** min(stage, self.q_pool) for stage in range(len(STAGES)))

    @property
    def unit_sides(self) -> tuple[int, ...]:
        """Side of a mask unit in tokens in stages 1-4."""
        return tuple(self.mask_unit_size // stride for stride in self.token_strides)

    @property
    def unit_strides(self) -> tuple[tuple[int, int], ...]:
        """How a mask unit's tokens are nested: by the poolings, then by the tokens that these leave of it."""
        left = self.unit_sides[-1]
        return ((self.q_stride, self.q_stride),) * self.q_pool + (((left, left),) if left > 1 else ())

    @property
    def size_divisibility(self) -> int:
        """What height and width of images must be multiples of, in pixels: the side of a mask unit."""
        return PATCH_STRIDE * self.mask_unit_size

    @property
    def window_sizes(self) -> tuple[int, ...]:
        """Sides of the attention windows of stages 1-4 in tokens."""
        return tuple(self.window_size) if self.window_size is not None else (*self.unit_sides[:2], 0, 0)

    @property
    def block_stages(self) -> tuple[int, ...]:
        """The stage, counted from 0, of each block that is built: of none after the last stage that is asked for."""
        last = max(STAGES.index(name) for name in stage_names(self.out_features))
        return tuple(stage for stage in range(last + 1) for _ in range(self.depths[stage]))

    @property
    def stage_ends(self) -> tuple[int, ...]:
        """The last block of each stage that is built."""
        return tuple(sum(self.depths[: stage + 1]) - 1 for stage in range(self.block_stages[-1] + 1))

    @property
    def windows(self) -> tuple[int, ...]:
        """Each block's window side in mask units, 0 for global; a stage's first block has that of the stage before."""
        sides = [size // unit for size, unit in zip(self.window_sizes, self.unit_sides, strict=True)]
        stages = self.block_stages
        windows = [sides[stages[max(0, block - 1)]] for block in range(len(stages))]
        return tuple(0 if block in self.global_blocks else window for block, window in enumerate(windows))

    @property
    def unit_group(self) -> int:
        """Side in units of the squares of units that are kept together, so that windows of that size are views."""
        larger = {window for window in self.windows if window > 1}
        return larger.pop() if len(larger) == 1 else 1

    @property
    def checkpoint_stages(self) -> tuple[str, ...]:
        """The stages whose blocks are recomputed in the backward pass."""
        if isinstance(self.use_checkpoint, bool):
            return STAGES if self.use_checkpoint else ()
        return tuple(self.use_checkpoint)

    @property
    def feature_info(self) -> tuple[Feature, ...]:
        """Name, channels and stride of each map, in the order of ``out_features``."""
        stages = {name: STAGES.index(name) for name in stage_names(self.out_features)}
        strides = self.token_strides
        return tuple(Feature(name, self.dims[i], PATCH_STRIDE * strides[i]) for name, i in stages.items())


def stage_names(stages: Iterable[str | int]) -> tuple[str, ...]:
    """Stages given by name or number, by name."""
    return tuple(f"stage{stage}" if isinstance(stage, int) else stage for stage in stages)
