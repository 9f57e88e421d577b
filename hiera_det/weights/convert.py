"""Writing a Hiera's tensors in another package's layout, as far as that package can hold them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hiera_det.errors import InputError
from hiera_det.files import make_folder, write_atomically
from hiera_det.modeling.hiera import PATCH_STRIDE
from hiera_det.modeling.variants import HIERADET_VARIANTS, VARIANTS
from hiera_det.weights.contents import DETECTOR_PREFIX, Contents
from hiera_det.weights.layouts import (
    DETECTRON2,
    HF,
    HIERA_DET,
    OFFICIAL,
    SAM2,
    SAM2_HF,
    TARGETS,
    TIMM,
    TIMM_ABSWIN,
    Layout,
)
from hiera_det.weights.saving import SAFETENSORS, save_tensors
from hiera_det.weights.tensors import not_finite

__all__ = ["Converted", "convert", "write"]

SUFFIXES = (SAFETENSORS, ".pth", ".pt", ".bin")
#: The parts that every block has.
WHOLE_BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


@dataclass(frozen=True)
class Converted:
    """A file's tensors in another layout.

    Attributes:
        layout: whose layout it is.
        tensors: the tensors under that layout's names.
        container: the key that a file of theirs keeps them under, "" for none.
        config: transformers' ``config.json``, where the layout has one and the model is a published size.
        dropped: our names of what the layout cannot hold, and what in the file is no Hiera.
    """

    layout: Layout
    tensors: dict[str, Tensor]
    container: str
    config: dict[str, Any] | None
    dropped: tuple[str, ...]


def convert(contents: Contents, to: str) -> Converted:
    """Rename a file's tensors for another package.

    Args:
        contents: the file.
        to: one of `TARGETS`; ``official`` is facebookresearch/hiera for a Hiera, facebookresearch/sam2 for a HieraDet;
            ``detectron2`` is what detectron2's own checkpointer loads into a model with our backbone.

    Raises:
        InputError: unknown target, or one that cannot hold the model; or the trunk is not whole. Nothing is left out
            of it unsaid.
    """
    if to not in TARGETS:
        raise InputError(f"--to {to}: choose one of {', '.join(TARGETS)}")
    _check_whole(contents)
    layout = _target(contents, to)
    heads, others = _heads(contents, layout), {}
    if layout is DETECTRON2 and contents.is_detector:
        around = contents.prefix.removesuffix(DETECTOR_PREFIX)
        others = {name.removeprefix(around): tensor for name, tensor in contents.others.items()}
    prefix = _prefix(layout, heads)
    tensors = {}
    for name, tensor in (contents.trunk | heads).items():
        theirs = layout.from_ours(name, contents.depths)
        inside = not layout.in_prefix or theirs.split(".")[0] in layout.in_prefix
        tensors[(prefix if inside else "") + theirs] = tensor
    kept = {id(tensor) for tensor in (*heads.values(), *others.values())}
    dropped = tuple(name for name, tensor in (contents.heads | contents.others).items() if id(tensor) not in kept)
    container = {OFFICIAL: "model_state", SAM2: "model", DETECTRON2: "model"}.get(layout, "")
    return Converted(layout, tensors | others, container, _config(contents, layout, heads), dropped)


def _check_whole(contents: Contents) -> None:
    """Refuse a trunk that lacks something, has something that no Hiera has, or has diverged."""
    blocks = [f"blocks.{block}.{part}" for block in range(sum(contents.depths)) for part in WHOLE_BLOCK]
    wanted = [f"{name}.{leaf}" for name in ("patch_embed.proj", *blocks) for leaf in ("weight", "bias")]
    tables = ["pos_embed_spatial", "pos_embed_temporal"] if contents.is_video else ["pos_embed"]
    wrong = {
        "lacks {} tensors of its trunk": [name for name in (*wanted, *tables) if name not in contents.trunk],
        "has {} tensors no Hiera has": contents.unknown,
        "has {} tensors with NaN or infinite values": not_finite(contents.trunk | contents.heads),
    }
    for what, names in wrong.items():
        if names:
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise InputError(f"weight file {contents.source} {what.format(len(names))} ({shown})")


def _heads(contents: Contents, layout: Layout) -> dict[str, Tensor]:
    """What the layout's models have of the file's tensors outside the trunk, by our names."""
    heads = {name: tensor for name, tensor in contents.heads.items() if _has_head(layout, name)}
    if layout in (TIMM, TIMM_ABSWIN) and "encoder_norm.weight" in contents.heads:
        # timm keeps the encoder's last norm where it keeps a classifier's.
        heads |= {f"norm.{leaf}": contents.heads[f"encoder_norm.{leaf}"] for leaf in ("weight", "bias")}
    return heads


def _target(contents: Contents, to: str) -> Layout:
    """The layout of a package that can hold the model.

    Raises:
        InputError: that package has no such model.
    """
    plain_det = contents.is_absolute_win and contents.has_projected_shortcut
    if to in ("hiera_det", "detectron2"):
        return HIERA_DET if to == "hiera_det" else DETECTRON2
    if to == "timm":
        return TIMM_ABSWIN if contents.layout is TIMM_ABSWIN or (contents.is_absolute_win and not plain_det) else TIMM
    if plain_det and not contents.has_layer_scale:
        return SAM2 if to == "official" else SAM2_HF
    if contents.is_absolute_win or contents.has_layer_scale:
        raise InputError(f"--to {to}: only timm and hiera_det have {contents.model_name} with scaled branches")
    if to == "hf" and contents.is_video:
        raise InputError("--to hf: transformers has no video Hiera; choose official, timm or hiera_det")
    return OFFICIAL if to == "official" else HF


def _has_head(layout: Layout, name: str) -> bool:
    """Whether a layout's models have this tensor outside the trunk."""
    if layout in (SAM2, SAM2_HF, DETECTRON2):
        return False
    return layout not in (TIMM, TIMM_ABSWIN) or name.startswith(("norm.", "head."))


def _prefix(layout: Layout, heads: Mapping[str, Tensor]) -> str:
    """What the layout's own model of these contents puts before the trunk's names."""
    if layout in (SAM2, DETECTRON2):
        return "image_encoder.trunk." if layout is SAM2 else DETECTOR_PREFIX
    with_head = "head.projection.weight" in heads or "mask_token" in heads
    return "hiera." if layout is HF and with_head else ""


def _config(contents: Contents, layout: Layout, heads: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The configuration for transformers; None for other layouts and for sizes whose heads are not known."""
    size = contents.model_name.removeprefix("hieradet_").removeprefix("hiera_")
    if layout not in (HF, SAM2_HF) or size not in VARIANTS:
        return None
    num_heads = [VARIANTS[size].num_heads << stage for stage in range(4)]
    if layout is SAM2_HF:
        return _sam2_config(contents, size, num_heads)
    side = math.isqrt(contents.trunk["pos_embed"].shape[1])
    config: dict[str, Any] = {
        "model_type": "hiera",
        "architectures": ["HieraModel"],
        "embed_dim": contents.embed_dim,
        "depths": list(contents.depths),
        "num_heads": num_heads,
        "num_channels": contents.stem.shape[1],
        "image_size": [side * PATCH_STRIDE for side in contents.grid or (side, side)],
    }
    return config | _heads_config(heads)


def _heads_config(heads: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the configuration says of a decoder or a classifier."""
    if "mask_token" in heads:
        blocks = {name.split(".")[1] for name in heads if name.startswith("decoder_blocks.")}
        width = heads["mask_token"].shape[-1]
        return {
            "architectures": ["HieraForPreTraining"],
            "num_query_pool": 2,  # the authors' decoders start from stride 16
            "decoder_hidden_size": width,
            "decoder_depth": len(blocks),
            "decoder_num_heads": width // 32,
        }
    if "head.projection.weight" not in heads:
        return {}
    labels = {str(index): f"LABEL_{index}" for index in range(heads["head.projection.weight"].shape[0])}
    numbers = {label: int(index) for index, label in labels.items()}
    return {"architectures": ["HieraForImageClassification"], "id2label": labels, "label2id": numbers}


def _sam2_config(contents: Contents, size: str, num_heads: list[int]) -> dict[str, Any]:
    """The configuration of transformers' Sam2HieraDetModel."""
    variant = HIERADET_VARIANTS[size]
    return {
        "model_type": "sam2_hiera_det_model",
        "architectures": ["Sam2HieraDetModel"],
        "hidden_size": contents.embed_dim,
        "num_attention_heads": num_heads[0],
        "num_channels": contents.stem.shape[1],
        "blocks_per_stage": list(contents.depths),
        "embed_dim_per_stage": [contents.embed_dim << stage for stage in range(4)],
        "num_attention_heads_per_stage": num_heads,
        "window_size_per_stage": list(variant.window_size),
        "global_attention_blocks": list(variant.global_blocks),
        "window_positional_embedding_background_size": list(contents.trunk["pos_embed"].shape[2:]),
    }


def write(converted: Converted, out: str | Path, overwrite: bool = False) -> list[Path]:
    """Write what `convert` gave, in one step per file: a reader sees an old file or a whole new one.

    Args:
        converted: the tensors.
        out: a ``.safetensors``, ``.pth``, ``.pt`` or ``.bin`` file; or, for transformers, a folder, which gets
            ``model.safetensors`` and ``config.json`` and can be given to ``from_pretrained``.
        overwrite: replace files that are there.

    Returns:
        the files written.

    Raises:
        InputError: the name cannot be used, or a file is there and ``overwrite`` was not said.
    """
    files = _targets(converted, Path(out))
    for target in files:
        if target.exists() and not overwrite:
            raise InputError(f"{target} is there already: name another, or say --overwrite")
    weights, *config = files
    make_folder(weights.parent)
    content: dict[str, Any] = {name: tensor.contiguous() for name, tensor in converted.tensors.items()}
    container = converted.container if weights.suffix != SAFETENSORS else ""
    save_tensors(weights, {container: content} if container else content)
    text = json.dumps(converted.config, indent=2) + "\n"
    for path in config:
        write_atomically(path, lambda file: file.write(text.encode()))
    return files


def _targets(converted: Converted, path: Path) -> list[Path]:
    """The files to write: the weights', and for a folder their configuration's.

    Raises:
        InputError: the package cannot read what the name stands for.
    """
    if path.suffix in SUFFIXES:
        if converted.layout is DETECTRON2 and path.suffix == SAFETENSORS:
            raise InputError(f"{path}: detectron2 reads no safetensors; name a file that ends in .pth")
        return [path]
    if converted.layout not in (HF, SAM2_HF):
        raise InputError(f"{path}: name a file that ends in one of {', '.join(SUFFIXES)}")
    if converted.config is None:
        raise InputError(f"{path}: config.json needs a published size; name a file, such as {path}.safetensors")
    return [path / "model.safetensors", path / "config.json"]
