"""The JSONs of training and of evaluation beside each other."""

from __future__ import annotations

import os

from hiera_det.data.classes import match_classes
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
    else:
        _tell_order(train, val, findings)
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


def _tell_order(train: CocoSummary, val: CocoSummary, findings: Findings) -> None:
    """Tell of classes that the second JSON has in another order."""
    rows = match_classes(train.class_names, val.class_names).rows
    moved = [(index, row) for index, row in enumerate(rows) if row is not None and row != index]
    if moved:
        index, row = moved[0]
        said = (
            f"numbers its classes otherwise than {train.path}: {short(val.class_names[index])} "
            f"(id {val.category_ids[index]}) is class {index} here and class {row} there (id {train.category_ids[row]})"
        )
        findings.add("split-order", said, count=len(moved))


def same_classes(train: CocoSummary, val: CocoSummary) -> None:
    """Refuse two JSONs of other classes. The order may be another one: an evaluation goes by name.

    Raises:
        InputError: names of one are not names of the other; the message has them.
    """
    match = match_classes(train.class_names, val.class_names)
    if match.is_same_set:
        return
    parts = [f"only in {s.path}: {listed(n)}" for s, n in ((train, match.dropped), (val, match.new)) if n]
    difference = "; ".join(parts)
    if {n.strip().casefold() for n in match.dropped} & {n.strip().casefold() for n in match.new}:
        difference += " (some differ only in upper and lower case)"
    raise InputError(f"categories of train and val JSON differ: {difference}; give both the same 'categories' list")
