"""Loading a published file into a model: every tensor is loaded, resampled, dropped by name, or an error.

A trunk takes a file's trunk; a classifier or an autoencoder takes the head or decoder too, where the file has one.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from hiera_det.errors import InputError, printable
from hiera_det.files import StrPath
from hiera_det.modeling.hiera import HieraBase
from hiera_det.weights.contents import Contents, parse, variant_name
from hiera_det.weights.download import locate
from hiera_det.weights.layouts import TIMM_ABSWIN, head_of, is_trunk_name
from hiera_det.weights.positions import guessed_positions, resample_positions, split_positions
from hiera_det.weights.sources import read_weight_file
from hiera_det.weights.tensors import not_finite

__all__ = ["LoadReport", "fit", "load_weights", "read_contents"]

logger = logging.getLogger("hiera_det.weights")

STEM = "patch_embed.proj.weight"


@dataclass(frozen=True)
class LoadReport:
    """What became of a file's tensors.

    Attributes:
        source: the file.
        model: the model it is of, ``hiera_base`` and the like.
        layout: whose layout it is in.
        kind: what it was made for.
        loaded: names of the model's tensors that came from the file, those of the next two included.
        resampled: position embeddings of another size, with both sizes.
        adapted: tensors remade for the model, with how: the first convolution for other channels, a plain position
            embedding split into window part and rest; or one whose rows and columns are a guess.
        dropped: the file's tensors that the model has no place for.
        initialised: the model's tensors that the file does not have; they stay as they were.
    """

    source: str
    model: str
    layout: str
    kind: str
    loaded: tuple[str, ...]
    resampled: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    initialised: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line for the log."""
        parts = [
            f"{len(self.loaded)} tensors loaded",
            _counted("resampled", self.resampled, self.resampled),
            *([_counted("adapted", self.adapted, self.adapted)] if self.adapted else []),
            _counted("dropped", self.dropped, _groups(self.dropped)),
            _counted("newly initialised", self.initialised, _groups(self.initialised)),
        ]
        return printable(f"{self.source}: {self.model} in {self.layout} layout ({self.kind}): {'; '.join(parts)}")


def _counted(word: str, names: Sequence[str], shown: Sequence[str]) -> str:
    """``3 dropped (a, b)``."""
    return f"{len(names)} {word}" + (f" ({', '.join(shown)})" if names else "")


def _groups(names: Sequence[str]) -> list[str]:
    """Names by their first word, with how many there are of each; the fullest six."""
    counts = Counter(name.split(".")[0] for name in names)
    shown = [f"{word} {count}" if count > 1 else word for word, count in counts.most_common(6)]
    return shown + (["..."] if len(counts) > len(shown) else [])


def load_weights(trunk: HieraBase, source: StrPath, new_head: bool = False) -> LoadReport:
    """Load a file into a model and log what became of its tensors.

    Args:
        trunk: the model, a trunk, classifier or autoencoder; what the file has is overwritten or, on an error, nothing.
        source: a file or folder, ``https://...``, ``hf://owner/name`` or ``timm://name``, in any known layout.
        new_head: leave a classifier's last layer as it is, whatever the file has.

    Returns:
        the report, which is also logged.

    Raises:
        InputError: the file cannot be had or read, is no Hiera, or does not fit the trunk.
    """
    tensors, report = fit(read_contents(source), trunk, new_head)
    trunk.load_state_dict(tensors, strict=not report.initialised)
    logger.info("%s", report)
    return report


def read_contents(source: StrPath) -> Contents:
    """Find, read and recognise a weight file; ``source`` as in `load_weights`."""
    path = locate(source)
    return parse(read_weight_file(path), str(path))


def fit(contents: Contents, trunk: HieraBase, new_head: bool = False) -> tuple[dict[str, Tensor], LoadReport]:
    """Give a file's tensors the shapes of a model, without changing the model.

    Args:
        contents: the file.
        trunk: the model to load it into.
        new_head: as in `load_weights`.

    Returns:
        the tensors under the model's names, without those of heads that the file does not have, and the report.

    Raises:
        InputError: another model's file; or tensors are missing, mis-shaped or unknown; in one line, with the cause.
    """
    _check_model(contents, trunk)
    _check_finite(contents)
    heads, initialised = _take_heads(contents, trunk, new_head)
    expected = {name: tensor for name, tensor in trunk.state_dict().items() if name not in initialised}
    tensors = contents.trunk | heads
    adapted = (*_adapt_stem(tensors, expected[STEM]), *split_positions(contents, tensors, trunk))
    adapted += guessed_positions(contents, tensors, expected, trunk)
    resampled = resample_positions(contents, tensors, expected, trunk)
    # A trunk that returns early stages only is built without the later blocks.
    later = [name for name in tensors if name not in expected and name.startswith("blocks.")]
    unused = later if len(trunk.stage_ends) < len(trunk.depths) else []
    _check_names(contents, {name: tensor for name, tensor in tensors.items() if name not in unused}, expected)
    dropped = (*(name for name in contents.heads if name not in heads), *contents.others, *unused)
    what = contents.source, contents.model_name, contents.layout.title, contents.kind
    report = LoadReport(*what, tuple(expected), resampled, adapted, dropped, initialised)
    return {name: tensors[name] for name in expected}, report


def _take_heads(contents: Contents, trunk: HieraBase, new_head: bool) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The file's heads that the model has too, and the names of the model's tensors that the file has none for.

    Raises:
        InputError: the file's classifier has other classes, and no new one was asked for.
    """
    wanted = {name: tensor for name, tensor in trunk.state_dict().items() if not is_trunk_name(name)}
    theirs, ours = (heads.get("head.projection.weight") for heads in (contents.heads, wanted))
    if theirs is not None and ours is not None and not new_head and len(theirs) != len(ours):
        raise InputError(
            f"weight file {contents.source} does not fit: its head has {len(theirs)} classes, the model's {len(ours)}; "
            f"build it with num_classes={len(theirs)}, or with new_head=True to start the head afresh"
        )
    taken = {head_of(name) for name in wanted} & {head_of(name) for name in contents.heads}
    taken -= {"head"} if new_head else set()
    heads = {name: tensor for name, tensor in contents.heads.items() if head_of(name) in taken}
    return heads, tuple(name for name in wanted if head_of(name) not in taken)


def _check_model(contents: Contents, trunk: HieraBase) -> None:
    """Refuse another model's file, naming both."""
    family = "hieradet" if trunk.options.pos_embed == "absolute_win" else "hiera"
    model_dim = trunk.patch_embed.proj.out_channels
    theirs, ours = contents.model_name, variant_name(family, model_dim, trunk.depths)
    mismatch = ""
    if contents.embed_dim != model_dim:
        mismatch = f"this file is {theirs}: embed dim {contents.embed_dim}; the model is {ours}: {model_dim}"
    elif contents.depths != trunk.depths and len(contents.depths) == len(trunk.depths):
        mismatch = f"this file is {theirs}: depths {contents.depths}; the model is {ours}: {trunk.depths}"
    if mismatch:
        raise InputError(f"weight file {contents.source} does not fit: {mismatch}; choose the model of the file's size")
    _check_family(contents, trunk)


def _check_family(contents: Contents, trunk: HieraBase) -> None:
    """Refuse a file whose trunk works in another way, and say what to build instead."""
    way_out = ""
    if contents.is_video and not trunk.frames:
        way_out = "it is a video model: build the trunk with frames=16, or take the image model's file"
    elif trunk.frames and not contents.is_video:
        way_out = "it is an image model, and the trunk is for video: build it without frames"
    elif contents.is_absolute_win and trunk.options.pos_embed != "absolute_win":
        way_out = (
            f"it is {contents.model_name}, whose position embedding has a window part: build it with "
            f"hiera_det.{_function(contents)}(), or take its config (configs/mask_rcnn_hieradet_*.yaml)"
        )
    elif contents.layout is TIMM_ABSWIN and not trunk.options.pos_antialias:
        way_out = "timm's absolute-window positions are resampled with antialiasing: set pos_antialias True"
    elif contents.has_layer_scale and not any("ls1" in name for name in trunk.state_dict()):
        way_out = "its residual branches are scaled: set layer_scale True"
    if way_out:
        raise InputError(f"weight file {contents.source} does not fit: {way_out}")


def _function(contents: Contents) -> str:
    """The function that builds a file's model, where it is a published one."""
    return contents.model_name if " " not in contents.model_name else "Hiera"


def _check_finite(contents: Contents) -> None:
    """Refuse a model that has diverged, whichever part shows it; what surrounds another's trunk is not looked at."""
    tensors = contents.trunk | contents.heads | (contents.others if contents.is_detector else {})
    if names := not_finite(tensors):
        raise InputError(
            f"weight file {contents.source} does not fit: {_counted('with NaN or infinite values', names, names[:4])}; "
            "take one from before its training diverged"
        )


def _adapt_stem(tensors: dict[str, Tensor], expected: Tensor) -> tuple[str, ...]:
    """Make the first convolution take the model's channels, as timm does; says how, or nothing."""
    weight = tensors[STEM]
    have, want = weight.shape[1], expected.shape[1]
    if have == want or weight.ndim != expected.ndim:
        return ()
    if want == 1:  # grey images: what the file would give for the same grey in each channel
        tensors[STEM] = weight.sum(dim=1, keepdim=True)
        return (f"{STEM} from {have} channels to 1, summed",)
    repeated = weight.repeat(1, math.ceil(want / have), *(1,) * (weight.ndim - 2))
    tensors[STEM] = repeated[:, :want] * (have / want)
    return (f"{STEM} from {have} channels to {want}, repeated and scaled by {have / want:.3g}",)


def _check_names(contents: Contents, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse a file that lacks something, has something that no Hiera has, or has another shape."""
    wrong = {
        "missing": [name for name in expected if name not in tensors],
        "mis-shaped": [
            f"{name} {list(tensors[name].shape)} for {list(shape.shape)}"
            for name, shape in expected.items()
            if name in tensors and tensors[name].shape != shape.shape
        ],
        "unexpected": [*(name for name in tensors if name not in expected), *contents.unknown],
    }
    parts = [
        f"{len(names)} {word} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
        for word, names in wrong.items()
        if names
    ]
    if parts:
        raise InputError(
            f"weight file {contents.source} does not fit: {'; '.join(parts)}; it was read as {contents.model_name} in "
            f"the layout of {contents.layout.title}"
        )
