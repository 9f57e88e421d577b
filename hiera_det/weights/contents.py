"""What a weight file holds: its layout, the trunk under our names, the heads, and the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hiera_det.errors import InputError
from hiera_det.modeling.hiera import PATCH_STRIDE
from hiera_det.modeling.variants import HIERADET_VARIANTS, VARIANTS
from hiera_det.weights.layouts import HIERA_DET, LAYOUTS, OFFICIAL, TIMM, TIMM_ABSWIN, Layout, is_trunk_name
from hiera_det.weights.tensors import FLOATS, shown

__all__ = ["DETECTOR", "DETECTOR_PREFIX", "Contents", "not_a_float", "parse", "state_dict_of", "variant_name"]

#: Keys under which files keep their tensors, in the order of preference: averaged weights before raw ones, as timm.
CONTAINERS = ("model_state", "state_dict_ema", "model_ema", "model", "state_dict", "model_state_dict")
#: What `torch.optim.swa_utils.AveragedModel` counts beside the model that it wraps.
_AVERAGED = "n_averaged"
#: What PyTorch's wrappers (compile, data parallel, FSDP, checkpointing) put into names, around any module.
_WRAPPER = re.compile(r"(?<![^.])(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
#: Where a detector of this project keeps its trunk.
DETECTOR_PREFIX = "backbone.trunk."
#: What `Contents.kind` says of such a file.
DETECTOR = "a trained detector"
NORM = "blocks.{}.norm{}.weight"
_SIDE_LIMIT = 1 << 16
#: How many dimensions those tensors have whose shapes say what model it is.
_RANKS = {
    "pos_embed": (3, 4),
    "pos_embed_window": (4,),
    "pos_embed_spatial": (3,),
    "pos_embed_temporal": (3,),
    "decoder_pos_embed": (3,),
    "head.projection.weight": (2,),
    "mask_token": (3,),
}


@dataclass(frozen=True)
class Contents:
    """A Hiera weight file, its tensors under our names.

    Attributes:
        source: the file, for messages.
        layout: how it names its tensors.
        prefix: what stood before the trunk's names.
        container: the key that held the tensors, or "".
        trunk: the trunk's tensors.
        heads: those of classifier, final norm and MAE decoder.
        unknown: names inside the trunk's prefix that no Hiera has.
        others: tensors of the model around the trunk, under their own names.
        depths: blocks per stage.
        grid: rows and columns of the position embedding where the file says so; by its tensor alone, a table of
            7x8 positions is one of 8x7 too.
    """

    source: str
    layout: Layout
    prefix: str
    container: str
    trunk: dict[str, Tensor]
    heads: dict[str, Tensor]
    unknown: tuple[str, ...]
    others: dict[str, Tensor]
    depths: tuple[int, ...]
    grid: tuple[int, int] | None = None

    @property
    def stem(self) -> Tensor:
        """The first convolution's weight ``[C, in_channels, (3,) 7, 7]``."""
        return self.trunk["patch_embed.proj.weight"]

    @property
    def embed_dim(self) -> int:
        """Channels of stage 1."""
        return self.stem.shape[0]

    @property
    def is_video(self) -> bool:
        """Whether it is a video model's file."""
        return self.stem.ndim == 5

    @property
    def is_absolute_win(self) -> bool:
        """Whether its position embedding has a window part."""
        return "pos_embed_window" in self.trunk

    @property
    def is_detector(self) -> bool:
        """Whether it is a whole detector of this project."""
        return self.prefix.endswith(DETECTOR_PREFIX) and bool(self.others)

    @property
    def has_layer_scale(self) -> bool:
        """Whether the blocks' branches are scaled."""
        return "blocks.0.ls1.gamma" in self.trunk

    @property
    def has_projected_shortcut(self) -> bool:
        """Whether the shortcuts between stages are linear layers."""
        names = {f"blocks.{sum(self.depths[:stage])}.proj.weight" for stage in range(1, len(self.depths))}
        return names <= self.trunk.keys()

    @property
    def model_name(self) -> str:
        """The model in one word, ``hiera_base`` or ``hieradet_tiny``, or its dimensions where no size has them."""
        if self.is_absolute_win and not self.has_projected_shortcut:
            return f"{variant_name('hiera', self.embed_dim, self.depths)}_abswin"
        return variant_name("hieradet" if self.is_absolute_win else "hiera", self.embed_dim, self.depths)

    @property
    def kind(self) -> str:
        """What the file was made for, in a few words."""
        if self.is_detector:
            return DETECTOR
        if "mask_token" in self.heads:
            return "MAE pretraining, with its decoder"
        if "head.projection.weight" in self.heads:
            return f"a classifier of {self.heads['head.projection.weight'].shape[0]} classes"
        return "a larger model's trunk" if self.others else "a trunk"


def variant_name(family: str, embed_dim: int, depths: Sequence[int]) -> str:
    """Name a model by its size; one that is none of the published sizes by its dimensions."""
    known = HIERADET_VARIANTS if family == "hieradet" else VARIANTS
    for name in known:
        variant = VARIANTS[name]
        if variant.embed_dim == embed_dim and variant.depths[: len(depths)] == tuple(depths) and len(depths) == 4:
            return f"{family}_{name}"
    return f"a {'HieraDet' if family == 'hieradet' else 'Hiera'} of embed dim {embed_dim} and depths {tuple(depths)}"


def state_dict_of(loaded: Mapping[str, Any], source: str) -> tuple[str, dict[str, Tensor]]:
    """Find the tensors in what was saved.

    Returns:
        the key that held them, "" for none, and the tensors by name.

    Raises:
        InputError: the first entry that is something else, in one line.
    """
    container = next((key for key in CONTAINERS if isinstance(loaded.get(key), Mapping) and loaded[key]), "")
    state = loaded[container] if container else loaded
    if not state:
        raise InputError(f"weight file {source} holds no tensors: save a model's state dict")
    for name, value in state.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise InputError(
                f"weight file {source}: entry {shown(name)} is a {type(value).__name__}, not a named tensor; "
                'save the state dict itself, or a dict that holds it under "model"'
            )
    state = {name: tensor for name, tensor in state.items() if name != _AVERAGED or tensor.ndim}
    unwrapped = {_WRAPPER.sub("", name): tensor for name, tensor in state.items()}
    if len(unwrapped) < len(state):
        raise InputError(
            f"weight file {source} has tensors whose names differ only in module. or _orig_mod.: save one model alone"
        )
    return container, unwrapped


def parse(loaded: Mapping[str, Any], source: str) -> Contents:
    """Recognise a file by the names of its tensors and give them ours.

    Args:
        loaded: what the file holds, see `hiera_det.weights.sources.read_weight_file`.
        source: the file's name, for messages.

    Raises:
        InputError: it holds no Hiera, more than one, or something that is no tensor.
    """
    container, state = state_dict_of(loaded, source)
    layout, prefix = _recognise(state, source)
    inside = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
    layout = _refine(layout, prefix, inside)
    depths = layout.depths(tuple(inside)) or _count_depths(layout, inside)
    ours: dict[str, Tensor] = {}
    unknown: list[str] = []
    others: dict[str, Tensor] = {}
    for name, tensor in state.items():
        in_prefix = name.startswith(prefix)
        renamed = layout.to_ours(name[len(prefix) :] if in_prefix else name, depths)
        if renamed is not None and (in_prefix or (layout.in_prefix and not is_trunk_name(renamed))):
            if renamed in ours:
                raise InputError(f"weight file {source} has {renamed} twice, once as {name}: save one model alone")
            ours[renamed] = tensor
        elif not in_prefix or name[len(prefix) :].startswith(layout.ignored or ("\0",)):
            others[name] = tensor
        else:
            unknown.append(name)
    trunk = {name: tensor for name, tensor in ours.items() if is_trunk_name(name)}
    heads = {name: tensor for name, tensor in ours.items() if not is_trunk_name(name)}
    _check_stem(trunk, source)
    _check_numbers(ours, source)
    return Contents(source, layout, prefix, container, trunk, heads, tuple(unknown), others, depths, _grid(loaded))


def _recognise(state: Mapping[str, Tensor], source: str) -> tuple[Layout, str]:
    """The layout and the prefix of the one Hiera in a file."""
    found = [
        (layout, name[: -len(stem)])
        for layout in LAYOUTS
        for stem, mlp in [layout.signature]
        for name in state
        if (name == stem or name.endswith(f".{stem}")) and name[: -len(stem)] + mlp in state
    ]
    found = [(layout, prefix) for layout, prefix in found if prefix + "cls_token" not in state]
    if len(found) > 1:
        prefixes = ", ".join(repr(prefix) for _, prefix in found)
        raise InputError(f"weight file {source} holds {len(found)} trunks, under {prefixes}: save one of them alone")
    if not found:
        raise InputError(
            f"weight file {source} is no Hiera: its {len(state)} tensors are named {', '.join(list(state)[:3])}, ...; "
            f"known are {', '.join(layout.title for layout in (*LAYOUTS, TIMM, HIERA_DET))}"
        )
    return found[0]


def _refine(layout: Layout, prefix: str, inside: Mapping[str, Tensor]) -> Layout:
    """Tell apart those that name the trunk's blocks as the authors do."""
    if layout is not OFFICIAL:
        return layout
    if "pos_embed_win" in inside:
        return TIMM_ABSWIN
    if any(name.startswith(("head.norm.", "head.fc.")) for name in inside):
        return TIMM
    return HIERA_DET if prefix.endswith(DETECTOR_PREFIX) or "pos_embed_window" in inside else OFFICIAL


def _count_depths(layout: Layout, inside: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Blocks per stage: a stage begins where a block's second norm is wider than its first."""
    depths: list[int] = []
    for block in range(len(inside)):
        norms = [inside.get(layout.from_ours(NORM.format(block, i), ())) for i in (1, 2)]
        if norms[0] is None or norms[1] is None:
            break
        if not depths or norms[0].shape != norms[1].shape:
            depths.append(0)
        depths[-1] += 1
    return tuple(depths)


def _check_stem(trunk: Mapping[str, Tensor], source: str) -> None:
    """Refuse another network that happens to use the same names: Hiera's stem has kernel 7 (3, 7, 7 for video)."""
    kernel = tuple(trunk["patch_embed.proj.weight"].shape[2:])
    if kernel not in ((7, 7), (3, 7, 7)):
        raise InputError(f"weight file {source} is no Hiera: its first convolution has kernel {kernel}, not (7, 7)")


def _check_numbers(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse numbers that loading would cast from something else, and shapes that no Hiera has at any size."""
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            raise not_a_float(name, tensor, source)
        one_table = "pos_embed" not in name or tensor.shape[:1] == (1,)
        if not tensor.numel() or tensor.ndim not in _RANKS.get(name, (tensor.ndim,)) or not one_table:
            raise InputError(f"weight file {source} is no Hiera: its {name} has shape {list(tensor.shape)}")


def not_a_float(name: str, tensor: Tensor, source: str) -> InputError:
    """The line for a tensor whose numbers a model's cannot be made from."""
    return InputError(
        f"weight file {source}: tensor {name} is of {str(tensor.dtype).removeprefix('torch.')}, and the model's are "
        "floating-point numbers of 16 bits or more: save the model as it was before it was quantised"
    )


def _grid(loaded: Mapping[str, Any]) -> tuple[int, int] | None:
    """The position embedding's rows and columns as a file of ours records them."""
    config = loaded.get("config")
    size = config.get("pretrain_size") if isinstance(config, Mapping) else None
    sides = size if isinstance(size, list | tuple) else (size, size)
    if len(sides) != 2 or not all(type(side) is int and 0 < side < _SIDE_LIMIT for side in sides):
        return None
    return sides[0] // PATCH_STRIDE, sides[1] // PATCH_STRIDE
