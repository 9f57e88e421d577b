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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hiera_det.data.coco.agreement import check_agreement, check_repeated
from hiera_det.data.coco.entries import check_categories, check_images, check_keys, check_lists, check_odd
from hiera_det.data.coco.findings import Finding, Findings, listed, short
from hiera_det.data.coco.headers import check_headers
from hiera_det.data.coco.image_files import check_files_there
from hiera_det.data.coco.kinds import KINDS
from hiera_det.data.coco.pixels import Progress, check_pixels
from hiera_det.data.coco.read import nearest_folder, read_coco
from hiera_det.data.coco.schema import Annotations, CocoData, CocoSummary, Contents, Floats, ImageId, StrPath
from hiera_det.data.coco.values import Linked, check_areas, check_boxes, check_masks, link
from hiera_det.data.images import MAX_PIXELS
from hiera_det.errors import InputError

__all__ = [
    "Look",
    "check_coco_json",
    "check_dataset",
    "inspect_coco",
]


def check_dataset(
    json: StrPath,
    images: StrPath,
    *,
    every_header: bool = True,
    pixels: bool = False,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
) -> list[Finding]:
    """All that there is to say about a COCO JSON and its image files.

    Args:
        json: the COCO JSON (instances: boxes, with or without masks).
        images: folder that the JSON's ``file_name`` entries are relative to.
        every_header: read the header of each image file, and not a sample of them.
        pixels: decode each image file too; what was found is remembered until the file changes.
        max_pixels: largest image, see `hiera_det.data.images`.
        progress: is told how many of how many images are decoded.

    Returns:
        errors, which training refuses, then warnings, then notes; one for each kind of oddity.
    """
    look = Look(every_header=every_header, pixels=pixels, max_pixels=max_pixels, progress=progress)
    return inspect_coco(json, images, look)[1].as_list()


def check_coco_json(
    json_path: StrPath,
    image_root: StrPath,
    *,
    require_annotations: bool = True,
    check_files: bool = True,
    max_pixels: int = MAX_PIXELS,
    skip_unreadable: bool = False,
) -> CocoSummary:
    """Check a COCO JSON and its images; return what it holds.

    Args:
        json_path: the COCO JSON (instances: boxes, with or without masks).
        image_root: folder that the JSON's ``file_name`` entries are relative to.
        require_annotations: refuse a JSON without usable annotations (training and evaluation need them).
        check_files: look at every image file and a sample of headers too; False for a second look, such as in a worker
            process whose parent has checked already.
        max_pixels: largest image, see `hiera_det.data.images`.
        skip_unreadable: let pass what is no image, for a training that leaves it out.

    Raises:
        InputError: the first mistake found; one line.
    """
    look = Look(require_annotations=require_annotations, files=check_files, max_pixels=max_pixels)
    summary, findings = inspect_coco(json_path, image_root, look)
    findings.raise_first_error(except_for="image-unreadable" if skip_unreadable else "")
    assert summary is not None  # without one there is an error
    return summary


#: How many detections an image COCO counts, and a detector gives unless told otherwise.
COCO_DETECTIONS = 100


@dataclass(frozen=True)
class Look:
    """How closely to look at a JSON; see `check_dataset` and `check_coco_json` for the fields."""

    require_annotations: bool = True
    files: bool = True
    every_header: bool = False
    pixels: bool = False
    max_pixels: int = MAX_PIXELS
    progress: Progress | None = None


def inspect_coco(json_path: StrPath, image_root: StrPath, look: Look) -> tuple[CocoSummary | None, Findings]:
    """What a JSON holds, None where that cannot be said, and what there is to say about it."""
    findings = Findings(str(json_path))
    return _inspect(str(json_path), str(image_root), look, findings), findings


def _inspect(path: str, root: str, look: Look, findings: Findings) -> CocoSummary | None:
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
    # Everything is looked at even after an error, so that a user mends a data set in one go.
    names = check_categories(data.top["categories"], _used(data.annotations), findings)
    images = check_images(data.top["images"], findings)
    linked, areas = _check_annotations(data.annotations, images, names, findings)
    if not findings.has_errors:
        data.contents = Contents(images, names, data.annotations, linked.rows, areas)
    summary = _summarise(data, root, names, images, linked, findings)
    if look.require_annotations and not sum(summary.instance_counts) and not findings.has_errors:
        _tell_none(data.annotations, findings)
    if look.files and os.path.isdir(root):
        there = check_files_there(images, root, findings)
        # A training refuses anyhow then: it need not open thousands of files first.
        if look.every_header or not findings.has_errors:
            check_headers(there, root, findings, every=look.every_header, max_pixels=look.max_pixels)
        if look.pixels:
            check_pixels(there, root, findings, look.max_pixels, look.progress)
    notes = tuple(str(finding) for finding in findings.as_list() if finding.severity != "error")
    return CocoSummary(**{**summary.__dict__, "notes": notes})


def _tell_none(annotations: Annotations, findings: Findings) -> None:
    """Say why there is nothing to train on."""
    have, remedy = "no annotations ('annotations' is empty)", KINDS["no-annotations"].remedy.split(";")[0]
    if len(annotations):
        have = "no annotation with a box or a mask" if "empty" in findings else "only crowd annotations"
    if have == "only crowd annotations":
        remedy = "where each is one object, set iscrowd to 0, as `hiera-det check ... --fix OUT.json` does"
    findings.add("no-annotations", have, remedy=remedy)


def _used(annotations: Annotations) -> set[int]:
    return set(np.unique(annotations.category_ids).tolist())


def _check_annotations(
    annotations: Annotations, images: Mapping[ImageId, dict[str, Any]], names: Mapping[int, str], findings: Findings
) -> tuple[Linked, Floats]:
    for index, entry in annotations.odd.items():
        check_odd(index, entry, findings, names)
    linked = link(annotations, images, names, findings)
    check_boxes(linked, findings)
    mask_areas, extents = check_masks(linked, findings)
    areas = check_areas(linked, mask_areas, findings)
    check_agreement(linked, extents, findings)
    check_repeated(linked, findings)
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
    # What has neither area nor mask cannot be learned or found: it is no object.
    empty = annotations.is_empty & linked.sound
    instances = linked.sound & ~annotations.crowd & ~empty  # crowd regions are not trained on either
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
    if summary.fullest > COCO_DETECTIONS:
        said = f"the fullest image, {short(summary.fullest_image)}, has {summary.fullest} objects"
        findings.add("image-full", said, count=summary.fullest)
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
    if brushed := _brushed(linked.annotations, crowd):
        said = f"{brushed} masks in run lengths have iscrowd 1, as CVAT writes what is drawn with a brush"
        findings.add("crowd-brush", said, count=brushed)
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


def _brushed(annotations: Annotations, crowd: Any) -> int:
    """Crowd regions of run lengths in a JSON whose annotations have CVAT's key."""
    if not any("attributes" in keys for keys in annotations.key_sets):
        return 0
    return sum(bool(crowd[index]) for index in annotations.rles)


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
