"""A head's rows that stand for classes, moved to where other data have the classes of the same names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from hiera_det.data.classes import ClassMatch

__all__ = ["move_class_rows"]


@dataclass(frozen=True)
class _Rows:
    """How a tensor's first axis is laid out: ``[outer, classes (+ background), inner]``.

    Attributes:
        name: recognises the tensor.
        inner: rows of one class that lie together.
        background: whether a row for no class comes last.
        anchors: whether the classes are repeated for each anchor; otherwise there is one group of them.
    """

    name: re.Pattern[str]
    inner: int = 1
    background: bool = False
    anchors: bool = False

    def view(self, tensor: Tensor, classes: int) -> Tensor | None:
        """The tensor with classes as its second axis, None where its rows are no multiple of theirs."""
        group = (classes + self.background) * self.inner
        if tensor.ndim == 0 or tensor.shape[0] % group or not (self.anchors or tensor.shape[0] == group):
            return None
        return tensor.reshape(-1, classes + self.background, self.inner, *tensor.shape[1:])


_LAYOUTS = (
    _Rows(re.compile(r"roi_heads\.box_predictor\.(\d+\.)?cls_score\.\w+"), background=True),
    _Rows(re.compile(r"roi_heads\.box_predictor\.(\d+\.)?bbox_pred\.\w+"), inner=4),
    _Rows(re.compile(r"roi_heads\.mask_head\.predictor\.\w+")),
    _Rows(re.compile(r"head\.cls_score\.\w+"), anchors=True),  # RetinaNet's
    _Rows(re.compile(r"head\.projection\.\w+")),  # a classifier's
)


def move_class_rows(
    tensors: Mapping[str, Tensor], fresh: Mapping[str, Tensor], match: ClassMatch, count: int
) -> dict[str, Tensor]:
    """Give the classes of a data set the rows that a checkpoint has for those names.

    Args:
        tensors: the checkpoint's, by their names in detectron2's models or in a classifier.
        fresh: the model's own of the same names, for classes that the checkpoint lacks.
        match: how the classes go together.
        count: the checkpoint's classes.

    Returns:
        the tensors in which classes have rows, in the model's shapes. What is the same for all classes is not there.
    """
    moved = {}
    for name, own in fresh.items():
        layout = next((layout for layout in _LAYOUTS if layout.name.fullmatch(name)), None)
        old = layout.view(tensors[name], count) if layout else None
        new = layout.view(own.clone(), len(match.rows)) if layout else None
        if old is None or new is None or old.shape[::2] != new.shape[::2] or old.shape[3:] != new.shape[3:]:
            continue
        places = [(place, row) for place, row in enumerate(match.rows) if row is not None]
        places += [(-1, -1)] if layout and layout.background else []
        for place, row in places:
            new[:, place] = old[:, row]
        moved[name] = new.flatten(0, 2)
    return moved
