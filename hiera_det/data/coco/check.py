"""Checks of a COCO JSON before anything is trained or evaluated on it.

A mistake in a data set otherwise shows up as an assertion inside a data-loading worker hours later, or never: an
annotation that is dropped, classes that are mixed up, an image that is read with another size. `check_dataset` says all
that is to be said about a JSON and its images; `check_coco_json` is what training runs: it refuses the first mistake
with one line, and returns a `CocoSummary` of what the JSON holds.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hiera_det.data.coco.entries import check_categories, check_images, check_keys, check_lists, check_odd
from hiera_det.data.coco.findings import Finding, Findings, listed, short
from hiera_det.data.coco.headers import check_headers
from hiera_det.data.coco.image_files import check_files_there
from hiera_det.data.coco.read import nearest_folder, read_coco
from hiera_det.data.coco.schema import Annotations, CocoData, CocoSummary, Contents, Floats, ImageId, StrPath
from hiera_det.data.coco.values import Linked, check_areas, check_boxes, check_masks, link
from hiera_det.data.images import MAX_PIXELS
from hiera_det.errors import InputError

__all__ = [
    "check_coco_json",
    "check_dataset",
    "common_images",
    "same_classes",
]


def check_dataset(
    json_path: StrPath, image_root: StrPath, *, every_header: bool = True, max_pixels: int = MAX_PIXELS
) -> list[Finding]:
    """All that there is to say about a COCO JSON and its image files.

    Args:
        json_path: the COCO JSON (instances: boxes, with or without masks).
        image_root: folder that the JSON's ``file_name`` entries are relative to.
        every_header: read the header of each image file, and not a sample of them.
        max_pixels: largest image, see `hiera_det.data.images`.

    Returns:
        errors, which training refuses, then warnings, then notes; one for each kind of oddity.
    """
    findings = Findings(str(json_path))
    _inspect(str(json_path), str(image_root), findings, every_header=every_header, max_pixels=max_pixels)
    return findings.as_list()


def check_coco_json(
    json_path: StrPath,
    image_root: StrPath,
    *,
    require_annotations: bool = True,
    check_files: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> CocoSummary:
    """Check a COCO JSON and its images; return what it holds.

    Args:
        json_path: the COCO JSON (instances: boxes, with or without masks).
        image_root: folder that the JSON's ``file_name`` entries are relative to.
        require_annotations: refuse a JSON without usable annotations (training and evaluation need them).
        check_files: look at every image file and a sample of headers too; False for a second look, such as in a worker
            process whose parent has checked already.
        max_pixels: largest image, see `hiera_det.data.images`.

    Raises:
        InputError: the first mistake found; one line.
    """
    findings = Findings(str(json_path))
    summary = _inspect(
        str(json_path),
        str(image_root),
        findings,
        require_annotations=require_annotations,
        check_files=check_files,
        max_pixels=max_pixels,
    )
    findings.raise_first_error()
    assert summary is not None  # without one there is an error
    return summary


def _inspect(
    path: str,
    root: str,
    findings: Findings,
    *,
    require_annotations: bool = True,
    check_files: bool = True,
    every_header: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> CocoSummary | None:
    """Fill ``findings``; a summary, or None where there is none to give."""
    try:
        data = read_coco(path)
    except InputError as error:
        findings.add("json", str(error).removeprefix(f"{path}: "), remedy="")
        return None
    if not check_lists(data.top, findings, packed=data.annotations is not None):
        return None
    assert data.annotations is not None
    if not os.path.isdir(root):
        said = f"no such image folder (for {path}); {nearest_folder(Path(root))}"
        findings.add("image-folder", said, remedy="", file=root)
    names = check_categories(data.top["categories"], _used(data.annotations), findings)
    images = check_images(data.top["images"], findings)
    linked, areas = _check_annotations(data.annotations, images, names, findings)
    if not findings.has_errors:
        data.contents = Contents(images, names, data.annotations, linked.rows, areas)
    summary = _summarise(data, root, names, images, linked, findings)
    if require_annotations and not sum(summary.instance_counts) and not findings.has_errors:
        have = "only crowd annotations" if len(data.annotations) else "no annotations ('annotations' is empty)"
        if len(data.annotations) and "empty" in findings:
            have = "no annotation with a box or a mask"
        findings.add("no-annotations", have)
    if check_files and os.path.isdir(root):
        there = check_files_there(images, root, findings)
        if every_header or not findings.has_errors:
            check_headers(there, root, findings, every=every_header, max_pixels=max_pixels)
    notes = tuple(str(finding) for finding in findings.as_list() if finding.severity != "error")
    return CocoSummary(**{**summary.__dict__, "notes": notes})


def _used(annotations: Annotations) -> set[int]:
    return set(np.unique(annotations.category_ids).tolist())


def _check_annotations(
    annotations: Annotations, images: Mapping[ImageId, dict[str, Any]], names: Mapping[int, str], findings: Findings
) -> tuple[Linked, Floats]:
    for index, entry in annotations.odd.items():
        check_odd(index, entry, findings)
    linked = link(annotations, images, names, findings)
    check_boxes(linked, findings)
    areas = check_areas(linked, check_masks(linked, findings), findings)
    check_keys(annotations.key_sets, annotations.ids, findings)
    return linked, areas


def _summarise(
    data: CocoData,
    root: str,
    names: Mapping[int, str],
    images: Mapping[ImageId, dict[str, Any]],
    linked: Linked,
    findings: Findings,
) -> CocoSummary:
    """What the JSON holds; adds the notes on it."""
    annotations = linked.annotations
    empty = annotations.is_empty & linked.sound
    instances = linked.sound & ~annotations.crowd & ~empty
    counts = Counter(annotations.category_ids[instances].tolist())
    per_image = np.bincount(linked.rows[instances], minlength=len(images)) if len(images) else np.zeros(1, int)
    crowded = np.bincount(linked.rows[linked.sound & annotations.crowd], minlength=len(images))
    without_mask = instances & ~annotations.has_mask
    ids = sorted(names)
    fullest = int(per_image.argmax())
    summary = CocoSummary(
        path=data.path,
        image_root=root,
        class_names=tuple(names[i] for i in ids),
        category_ids=tuple(ids),
        instance_counts=tuple(counts[i] for i in ids),
        num_images=len(images),
        num_annotations=len(annotations),
        num_negatives=int(((per_image == 0) & (crowded == 0)).sum()) if images else 0,
        num_without_mask=int(without_mask.sum()),
        mask_format=_mask_format(annotations, instances, without_mask),
        gaps=_gaps(data, names, linked),
        without_mask=tuple(linked.ids(without_mask)[:20]),
        num_crowd_only=int(((per_image == 0) & (crowded > 0)).sum()) if images else 0,
        fullest=int(per_image.max()),
        fullest_image=list(images.values())[fullest]["file_name"] if images else "",
        exact_image_ids="image-id-inexact" not in findings,
    )
    _note(summary, names, linked, empty, findings)
    return summary


def _mask_format(annotations: Annotations, instances: Any, without_mask: Any) -> str | None:
    if without_mask.any() or not instances.any():
        return None
    return "bitmask" if instances[list(annotations.rles)].any() else "polygon"


def _note(summary: CocoSummary, names: Mapping[int, str], linked: Linked, empty: Any, findings: Findings) -> None:
    crowd, has_mask = linked.sound & linked.annotations.crowd, linked.annotations.has_mask
    total = sum(summary.instance_counts)
    if empty.any():
        ids = linked.ids(empty)
        said = f"{len(ids)} of {len(linked.sound)} boxes have no area (width or height <= 0) and no mask: annotation "
        findings.add("empty", f"{said}{listed(ids)}", annotation_id=ids[0], count=len(ids))
    if summary.num_negatives:
        said = f"{summary.num_negatives} of {summary.num_images} images have no annotation (negatives)"
        findings.add("image-no-annotation", said, count=summary.num_negatives)
    if summary.num_crowd_only:
        said = f"{summary.num_crowd_only} of {summary.num_images} images have only crowd regions"
        findings.add("image-crowd-only", said, count=summary.num_crowd_only)
    if crowd.any():
        findings.add("crowd-regions", f"{int(crowd.sum())} crowd regions (iscrowd 1) are not trained on")
    if (crowd & ~has_mask).any() and has_mask.any():
        ids = linked.ids(crowd & ~has_mask)
        said = f"{len(ids)} crowd regions have no mask, their boxes are taken: annotation {listed(ids)}"
        findings.add("crowd-no-mask", said, annotation_id=ids[0], count=len(ids))
    unused = [names[i] for i, count in zip(summary.category_ids, summary.instance_counts, strict=True) if not count]
    if unused and total:
        findings.add("category-unused", f"categories without any annotation: {listed(unused)}", count=len(unused))
    if 0 < summary.num_without_mask < total:
        ids_ = summary.without_mask
        said = f"{summary.num_without_mask} of {total} annotations have no segmentation: annotation {listed(ids_)}"
        findings.add("mask-missing", said, annotation_id=ids_[0], count=summary.num_without_mask)


def _gaps(data: CocoData, names: Mapping[int, str], linked: Linked) -> tuple[str, ...]:
    """What pycocotools would stumble over."""
    annotations = linked.annotations
    keys, has_mask = annotations.key_sets, annotations.has_mask
    found = {
        "byte order mark": data.has_byte_order_mark,
        "no info": not isinstance(data.top.get("info"), dict),
        "no iscrowd": any("iscrowd" not in key_set for key_set in keys),
        "no area": not np.isfinite(annotations.areas).all(),
        "annotation id 0": bool((annotations.ids == 0).any()),
        "category twice": len(names) < len(data.top["categories"]),
        "empty annotations": bool(annotations.is_empty.any()),
        "crowd without mask": bool(has_mask.any() and (annotations.crowd & ~has_mask).any()),
    }
    return tuple(gap for gap, present in found.items() if present)


def common_images(train: CocoSummary, val: CocoSummary) -> list[str]:
    """File names of the images of ``val`` that are in ``train`` too, links followed."""
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
