"""Files of trained models: tensors under the authors' names, and beside them what it takes to build the model again.

``{"model_state": tensors by name, "config": fields, "classes": names}``; all of it plain values, so that the file is
read as tensors only. A published file has the tensors alone: then its size is recognised by them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hiera_det.errors import InputError
from hiera_det.files import StrPath
from hiera_det.modeling.classifier import HieraForClassification
from hiera_det.modeling.hiera import FRAME_STRIDE, PATCH_STRIDE, HieraBase
from hiera_det.modeling.variants import VARIANTS
from hiera_det.weights.contents import Contents, parse
from hiera_det.weights.download import locate
from hiera_det.weights.load import fit
from hiera_det.weights.saving import save_tensors
from hiera_det.weights.sources import read_weight_file
from hiera_det.weights.tensors import shown

__all__ = ["TRUNK_FIELDS", "ModelFile", "load_classifier", "read_model_file", "write_model_file"]

#: What a classifier and an autoencoder of the same trunk have in common.
TRUNK_FIELDS = ("embed_dim", "num_heads", "depths", "pretrain_size", "frames")
#: Frames of the clips that the published video models are made for.
PUBLISHED_FRAMES = 16
#: Side of the images that the published models are made for.
PUBLISHED_SIZE = 224


@dataclass(frozen=True)
class ModelFile:
    """What a file says of its model.

    Attributes:
        source: where it is.
        contents: its tensors.
        fields: arguments of `Hiera` and its kin; recorded by this project, or those of the published size.
        classes: names of the classes, empty where the file has none.
        size: the published size that it is, or "".
    """

    source: str
    contents: Contents
    fields: dict[str, Any]
    classes: tuple[str, ...]
    size: str

    @property
    def trunk_fields(self) -> dict[str, Any]:
        """The fields of the trunk alone."""
        return {name: self.fields[name] for name in TRUNK_FIELDS if name in self.fields}

    @property
    def image_size(self) -> int:
        """The side in pixels of the images that it was made for; the longer one where they are no squares."""
        size = self.fields.get("pretrain_size", PUBLISHED_SIZE)
        return int(max(size) if isinstance(size, list | tuple) else size)


def write_model_file(
    path: StrPath,
    model: HieraBase | Mapping[str, Tensor],
    fields: Mapping[str, Any],
    classes: Sequence[str] = (),
) -> None:
    """Write a trained model.

    Args:
        path: of the file.
        model: a trunk, classifier or autoencoder, or its state dict.
        fields: the arguments it was built with, plain values.
        classes: names of a classifier's classes, in the order of their indices.

    Raises:
        InputError: it cannot be written.
    """
    state = model.state_dict() if isinstance(model, HieraBase) else model
    on_cpu = {name: tensor.detach().cpu() for name, tensor in state.items()}
    content: dict[str, Any] = {"model_state": on_cpu, "config": dict(fields)}
    save_tensors(path, content | ({"classes": list(classes)} if classes else {}))


def read_model_file(source: StrPath) -> ModelFile:
    """Read a file of this project or a published one, and say what model it is of.

    Args:
        source: a file or folder, ``https://...``, ``hf://owner/name`` or ``timm://name``.

    Raises:
        InputError: it cannot be had or read; its model's dimensions are neither recorded nor a published size's, or
            are recorded and not those of its tensors; or it names another number of classes than it has.
    """
    path = str(locate(source))
    loaded = read_weight_file(path)
    contents = parse(loaded, path)
    recorded = loaded.get("config")
    dimensions = contents.embed_dim, contents.depths
    size = next((name for name, own in VARIANTS.items() if (own.embed_dim, own.depths) == dimensions), "")
    if isinstance(recorded, dict) and "embed_dim" in recorded:
        _check_fields(recorded, contents)
        fields = dict(recorded)
    elif size:
        fields = _published_fields(contents, size)
    else:
        raise InputError(
            f"weight file {source}: it is {contents.model_name}, no published size, and says nothing of its attention "
            "heads; give --embed-dim, --num-heads and --depths"
        )
    names = loaded.get("classes")
    classes = tuple(name if isinstance(name, str) else shown(name) for name in names) if isinstance(names, list) else ()
    head = contents.heads.get("head.projection.weight")
    if classes and head is not None and len(classes) != len(head):
        raise InputError(f"{source}: it names {len(classes)} classes, and its head has {len(head)}")
    return ModelFile(path, contents, fields, classes, size)


def _check_fields(fields: Mapping[str, Any], contents: Contents) -> None:
    """Refuse fields that are not those of the tensors, before a model of such a size is built.

    Raises:
        InputError: one is missing, of another type, or contradicts the tensors.
    """
    tables = {name: table.shape[1] for name, table in contents.trunk.items() if table.ndim == 3}
    positions = tables.get("pos_embed_spatial", tables.get("pos_embed"))
    heads = _whole(fields.get("num_heads"))
    right: dict[str, bool] = {
        "embed_dim": _whole(fields.get("embed_dim")) == [contents.embed_dim],
        "depths": tuple(_whole(fields.get("depths"))) == contents.depths,
        "num_heads": type(fields.get("num_heads")) is int and heads[0] > 0 and contents.embed_dim % heads[0] == 0,
        "pretrain_size": positions is None or math.prod(contents.grid or (0,)) == positions,
        "frames": _whole(fields.get("frames", 0)) == [tables.get("pos_embed_temporal", 0) * FRAME_STRIDE],
    }
    for name, is_right in right.items():
        if not is_right:
            raise InputError(
                f"weight file {contents.source}: it says that its model has {name} {shown(fields.get(name))}, and its "
                f"tensors are of {contents.model_name}; take the file as it was written"
            )


def _whole(value: object) -> list[int]:
    """The whole numbers of a field; none where it has something else."""
    values: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
    return values if all(type(item) is int for item in values) else []


def _published_fields(contents: Contents, size: str) -> dict[str, Any]:
    """The fields of a published size, and the side of the square of positions that the file has."""
    variant = VARIANTS[size]
    fields: dict[str, Any] = {
        "embed_dim": variant.embed_dim,
        "num_heads": variant.num_heads,
        "depths": list(variant.depths),
        "frames": PUBLISHED_FRAMES if contents.is_video else 0,
    }
    table = contents.trunk.get("pos_embed_spatial", contents.trunk.get("pos_embed"))
    if table is not None and table.ndim == 3:
        side = round(table.shape[1] ** 0.5)
        if side * side == table.shape[1]:
            fields["pretrain_size"] = side * PATCH_STRIDE
    return fields


def load_classifier(source: StrPath) -> tuple[HieraForClassification, ModelFile]:
    """The classifier of a file, ready for evaluation, on the CPU.

    Raises:
        InputError: see `read_model_file`; or the file has no classifier, as one of MAE pretraining.
    """
    file = read_model_file(source)
    head = file.contents.heads.get("head.projection.weight")
    if head is None:
        raise InputError(
            f"{source}: it holds {file.contents.kind}, no classifier; train one by tools/train_classifier.py"
        )
    model = HieraForClassification(num_classes=len(head), **file.trunk_fields)
    tensors, _ = fit(file.contents, model)
    model.load_state_dict(tensors)
    return model.eval(), file
