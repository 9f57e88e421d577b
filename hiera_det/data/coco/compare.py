"""The JSONs of training and of evaluation beside each other."""

from __future__ import annotations

import os

from hiera_det.data.coco.findings import Finding, Findings, listed, short
from hiera_det.data.coco.read import read_coco
from hiera_det.data.coco.schema import CocoSummary
from hiera_det.errors import InputError

__all__ = ["compare_splits", "same_classes"]


def compare_splits(train: CocoSummary, val: CocoSummary) -> list[Finding]:
    """What there is to say about two checked JSONs that are to be trained and evaluated on."""
    findings = Findings(val.path)
    try:
        same_classes(train, val)
    except InputError as error:
        said, _, remedy = str(error).rpartition("; ")
        findings.add("split-classes", said, remedy=remedy)
    if common := _common_images(train, val):
        is_same = os.path.realpath(train.path) == os.path.realpath(val.path)
        what = "is the JSON of training too" if is_same else f"has images of {train.path}"
        said = f"{what}: {len(common)} of {val.num_images} images, {listed(common)}"
        findings.add("split-same", said, count=len(common))
    return findings.as_list()


def _common_images(train: CocoSummary, val: CocoSummary) -> list[str]:
    """File names of the images of ``val`` that are in ``train`` too; links to the folders are followed."""
    # By path and not by content: reading all images of both would take longer than a training's first epoch.
    files = []
    for summary in (train, val):
        root = os.path.realpath(summary.image_root)
        names = [image["file_name"] for image in read_coco(summary.path).top["images"]]
        files.append({os.path.normpath(os.path.join(root, name)): name for name in names})
    return [name for path, name in files[1].items() if path in files[0]]


def same_classes(train: CocoSummary, val: CocoSummary) -> None:
    """Refuse two JSONs that number their classes differently.

    Each JSON numbers its classes by its own ascending category ids, so a category that is missing from one, or
    sits elsewhere, would silently shift all later classes and spoil the evaluation.

    Raises:
        InputError: the names in ascending id order differ; the message says where.
    """
    if train.class_names == val.class_names:
        return
    only_train = [name for name in train.class_names if name not in val.class_names]
    only_val = [name for name in val.class_names if name not in train.class_names]
    if only_train or only_val:
        parts = [f"only in {s.path}: {listed(n)}" for s, n in ((train, only_train), (val, only_val)) if n]
        difference = "; ".join(parts)
        if {n.strip().casefold() for n in only_train} & {n.strip().casefold() for n in only_val}:
            difference += " (some differ only in upper and lower case or spaces)"
    else:
        index = next(
            i for i, pair in enumerate(zip(train.class_names, val.class_names, strict=True)) if pair[0] != pair[1]
        )
        difference = (
            f"same names in another order: class {index} is {short(train.class_names[index])} "
            f"(id {train.category_ids[index]}) in {train.path} but {short(val.class_names[index])} "
            f"(id {val.category_ids[index]}) in {val.path}"
        )
    raise InputError(f"categories of train and val JSON differ: {difference}; give both the same 'categories' list")
