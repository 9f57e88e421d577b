"""Checks of annotations' numbers, of all at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hiera_det.data.coco.box_form import CENTRES, CORNERS, box_form, is_percent
from hiera_det.data.coco.findings import Findings, listed, short
from hiera_det.data.coco.geometry import drawn_area, is_flat, mask_extents, polygon_areas
from hiera_det.data.coco.meant import id_remedy, meant_id, shift_of, shift_of_images
from hiera_det.data.coco.rle import rle_area, rle_extent, run_lengths
from hiera_det.data.coco.schema import Annotations, Floats, ImageId

__all__ = ["Linked", "check_areas", "check_boxes", "check_masks", "link", "tell"]

Bools: TypeAlias = npt.NDArray[np.bool_]

#: How far outside its image, in sides of it, a coordinate is nonsense; pycocotools takes memory in proportion to it.
ABSURD = 10
#: From this share of the boxes on, those within one pixel are taken for fractions, and those that leave their images
#: are worth a warning.
SUSPECT = 0.5
#: One pixel of slack: boxes are often rounded outwards.
SLACK = 1
#: By how many pixels, and by which factor, `area` may differ from the mask's, which exporters count in several ways.
AREA_SLACK, AREA_FACTOR = 16, 2
#: Masks that are drawn to see whether their polygons cross themselves.
DRAWN = 200


@dataclass
class Linked:
    """Annotations with the images they belong to.

    Attributes:
        annotations: all of a JSON.
        rows: index into the JSON's images of each, -1 where there is none, ``[N]``.
        sizes: width and height of each annotation's image, ``[N, 2]``; NaN where there is none.
        sound: which are well formed and have image and category, ``[N]``.
    """

    annotations: Annotations
    rows: npt.NDArray[np.int64]
    sizes: Floats
    sound: Bools

    def first(self, mask: Bools) -> int:
        """Id of the first one of a selection."""
        return int(self.annotations.ids[int(np.flatnonzero(mask)[0])])

    def ids(self, mask: Bools) -> list[int]:
        """Ids of a selection."""
        found: list[int] = self.annotations.ids[mask].tolist()
        return found


def link(
    annotations: Annotations,
    images: Mapping[ImageId, Mapping[str, Any]],
    categories: Mapping[int, str],
    findings: Findings,
) -> Linked:
    """Find each annotation's image and category, and tell of those that have none."""
    # Ids may be texts or far apart: a dictionary once, arrays of rows from then on.
    positions = {id_: row for row, id_ in enumerate(images)}
    rows = np.array([positions.get(id_, -1) for id_ in annotations.image_ids], np.int64).reshape(-1)
    is_odd: Bools = np.zeros(len(annotations), bool)
    is_odd[list(annotations.odd)] = True
    no_image = (rows < 0) & ~is_odd
    no_category = ~np.isin(annotations.category_ids, list(categories)) & ~is_odd
    _refuse_unknown(annotations, no_image, "image", images, findings)
    _refuse_unknown(annotations, no_category, "category", categories, findings)
    sizes = np.full((len(images) + 1, 2), np.nan)  # the last row is what -1 finds: comparisons with NaN are false
    sizes[:-1] = [(image["width"], image["height"]) for image in images.values()] or np.empty((0, 2))
    ids, counts = np.unique(annotations.ids[~is_odd], return_counts=True)
    if (counts > 1).any():
        twice = ids[counts > 1].tolist()
        said = f"{len(twice)} annotation ids occur more than once: {listed(twice)}"
        findings.add("annotation-id-twice", said, annotation_id=twice[0])
    return Linked(annotations, rows, sizes[rows], ~is_odd & ~no_image & ~no_category)


def _refuse_unknown(
    annotations: Annotations, unknown: Bools, what: str, known: Mapping[Any, Any], findings: Findings
) -> None:
    if not unknown.any():
        return
    index = int(np.flatnonzero(unknown)[0])
    value = annotations.image_ids[index] if what == "image" else int(annotations.category_ids[index])
    remedy = f"add the {what} or remove the annotations"
    if (meant := meant_id(value, known)) is not None:
        remedy = id_remedy(f"{what}_id", meant)
    elif shift := (
        shift_of_images(set(annotations.image_ids), known)
        if what == "image"
        else shift_of(np.unique(annotations.category_ids).tolist(), known)
    ):
        words = ("add 1 to", "take 1 from") if shift > 0 else ("take 1 from", "add 1 to")
        many = "images" if what == "image" else "categories"
        remedy = (
            f"unless {'an' if what == 'image' else 'a'} {what} is missing, {what}_id counts from {min(known) - shift} "
            f"and the ids in '{many}' from {min(known)}: {words[0]} each {what}_id, or {words[1]} each id"
        )
    said = f"{int(unknown.sum())} annotations name an unknown {what}, first: annotation {annotations.ids[index]} with "
    findings.add(
        f"annotation-{what}",
        f"{said}{what}_id {short(value)}",
        remedy=remedy,
        annotation_id=int(annotations.ids[index]),
        count=int(unknown.sum()),
    )


def check_boxes(linked: Linked, findings: Findings) -> None:
    """Boxes: finite, near their image, with an area, in pixels, and not as two corners."""
    boxes, sizes, sound = linked.annotations.boxes, linked.sizes, linked.sound
    total = int(sound.sum())
    finite = np.isfinite(boxes).all(1)
    _refuse(linked, sound & ~finite, "box", "bbox {} must be four finite numbers [x, y, width, height]", findings, "")
    with np.errstate(invalid="ignore", over="ignore"):
        corners = np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), 1)
        # Such a number is a slip, and pycocotools walks along an outline pixel by pixel: 2^63 of them.
        absurd = _is_absurd(corners, sizes) & finite & sound
        outside = (boxes[:, :2].min(1) < -SLACK) | (corners[:, 2:] > sizes + SLACK).any(1)
        fractions = (boxes >= 0).all(1) & (boxes <= 1.01).all(1) & (boxes[:, 2:] > 0).all(1) & (sizes > 2).all(1)
    _refuse(linked, absurd, "box-absurd", "bbox {} is far outside its image of {}", findings)
    no_area = ((boxes[:, 2] <= 0) | (boxes[:, 3] <= 0)) & sound & linked.annotations.has_mask
    if no_area.any():
        said = f"{int(no_area.sum())} of {total} boxes have no area (width or height <= 0) though there is a mask: "
        tell(linked, no_area, "box-no-area", said, findings)
    outside &= sound & ~absurd
    if outside.any():
        _tell_outside(linked, outside, total, findings)
    fractions &= sound
    if fractions.sum() > SUSPECT * total:
        said = f"{int(fractions.sum())} of {total} boxes lie within one pixel: are these fractions of the image?"
        findings.add("box-fractions", said, annotation_id=linked.first(fractions), count=int(fractions.sum()))
    elif is_percent(boxes[sound], sizes[sound]):
        said = f"all {total} boxes lie within the first 100 pixels of their images: are these percent of the image?"
        findings.add("box-percent", said, annotation_id=linked.first(sound), count=total)


def _tell_outside(linked: Linked, outside: Bools, total: int, findings: Findings) -> None:
    """Tell of boxes that leave their images, and of a form in which they do not."""
    form = box_form(linked.annotations.boxes[linked.sound], linked.sizes[linked.sound])
    kind = {CORNERS: "box-xyxy", CENTRES: "box-centre"}.get(form, "box-outside")
    if not form and outside.sum() > SUSPECT * total:
        kind = "box-mostly-outside"
    count = int(outside.sum())
    said = f"{count} of {total} boxes ({math.ceil(100 * count / total)}%) leave their image"
    said += f", and none as {form}: is this meant?" if form else ""
    findings.add(kind, said, annotation_id=linked.first(outside), count=count)


def check_masks(linked: Linked, findings: Findings) -> tuple[Floats, Floats]:
    """Masks: finite, near their image, with an area.

    Returns:
        areas of the masks in pixels, ``[N]``, and their x1, y1, x2, y2, ``[N, 4]``; NaN without a mask.
    """
    annotations, sizes, sound = linked.annotations, linked.sizes, linked.sound
    extents = mask_extents(annotations)
    has_polygons = annotations.polygon_starts[1:] > annotations.polygon_starts[:-1]
    finite = np.isfinite(extents).all(1)
    for index in np.flatnonzero(has_polygons & ~finite & sound)[:1]:
        polygon = next(p for p in annotations.polygons(int(index)) if not np.isfinite(p).all())
        said = f"a polygon {short(polygon.tolist())} holds something that is not a finite number"
        _refuse(linked, has_polygons & ~finite & sound, "polygon-numbers", said, findings)
    with np.errstate(invalid="ignore", over="ignore"):
        areas = np.where(has_polygons, polygon_areas(annotations), np.nan)
        absurd = _is_absurd(extents, sizes) & finite & sound
        outside = ((extents[:, 2:] < 0) | (extents[:, :2] > sizes)).any(1) & finite & sound & ~absurd
    _refuse(linked, absurd, "polygon-absurd", "a polygon leads far out of its image of {size}", findings)
    flat = has_polygons & finite & sound & ~absurd & (areas < 0.01)
    for index in np.flatnonzero(flat).tolist():  # few: an outline that crosses itself may have no area by the formula
        flat[index] = all(map(is_flat, annotations.polygons(index)))
    for mask, kind, what in (
        (outside, "polygon-outside", "lie outside their image"),
        (flat, "polygon-no-area", "have no area (a line or a point)"),
    ):
        if mask.any():
            said = f"polygons of {int(mask.sum())} of {int(has_polygons.sum())} annotations {what}: "
            tell(linked, mask, kind, said, findings)
    for index, rle in annotations.rles.items():
        if sound[index]:
            areas[index], extents[index] = _check_rle(rle, index, linked, findings)
    return areas, extents


def _check_rle(rle: Mapping[str, Any], index: int, linked: Linked, findings: Findings) -> tuple[float, Any]:
    """Area and extent of the mask; NaN where the RLE cannot be used."""
    width, height = (int(side) for side in linked.sizes[index])
    missing = [key for key in ("size", "counts") if key not in rle]
    runs = None if missing else run_lengths(rle["counts"])
    if missing:
        said = f"RLE segmentation: key '{missing[0]}' is missing"
    elif rle["size"] != [height, width]:
        said = f"RLE size {short(rle['size'])} differs from the image's [height, width] {[height, width]}"
    elif runs is None:
        said = f"RLE counts {short(rle['counts'])} must be a list of integers >= 0 or COCO's text form"
    elif int(runs.sum()) != height * width:
        said = f"RLE counts sum to {int(runs.sum())}, not to height x width = {height * width}"
    else:
        return rle_area(runs), rle_extent(runs, height)
    id_ = int(linked.annotations.ids[index])
    findings.add("rle", f"annotation {id_}: {said}", remedy="", annotation_id=id_)
    return math.nan, math.nan


def check_areas(linked: Linked, mask_areas: Floats, findings: Findings) -> Floats:
    """Each annotation's area, ``[N]``: the JSON's, else the mask's, else the box's; tells of wrong ones."""
    annotations, sound = linked.annotations, linked.sound
    own = annotations.areas
    unusable = sound & ~np.isfinite(own) & _has_key(annotations, "area")
    if unusable.any():
        said = f"area of {int(unusable.sum())} annotations is null, no number or negative, the mask's is taken: "
        tell(linked, unusable, "area-unusable", said, findings)
    with np.errstate(invalid="ignore", over="ignore"):
        more, less = np.maximum(own, mask_areas), np.minimum(own, mask_areas)
        differs = sound & (more - less > AREA_SLACK) & (more > AREA_FACTOR * less)
        box_areas = np.maximum(annotations.boxes[:, 2], 0) * np.maximum(annotations.boxes[:, 3], 0)
    differs &= _is_as_drawn(annotations, differs, mask_areas)
    if differs.any():
        index = int(np.flatnonzero(differs)[0])
        said = (
            f"area of {int(differs.sum())} annotations is far from the mask's, first: annotation "
            f"{annotations.ids[index]} says {own[index]:g}, its mask has {mask_areas[index]:g} pixels"
        )
        findings.add("area-differs", said, annotation_id=int(annotations.ids[index]), count=int(differs.sum()))
    return np.where(np.isfinite(own), own, np.where(np.isfinite(mask_areas), mask_areas, box_areas))


def _is_as_drawn(annotations: Annotations, which: Bools, mask_areas: Floats) -> Bools:
    """Whether the masks' areas by the formula are what a drawing covers: not where polygons cross themselves.

    Of many masks the first are drawn, and the others are taken to be like them.
    """
    found = which.copy()
    indices = np.flatnonzero(which & np.isfinite(mask_areas))
    drawn = [
        bool(polygons) and not np.isclose(drawn_area(polygons), mask_areas[index])
        for index in indices[:DRAWN].tolist()
        for polygons in [annotations.polygons(index)]
    ]
    found[indices[:DRAWN][drawn]] = False
    if len(indices) > DRAWN and sum(drawn) > DRAWN / 2:
        found[indices[DRAWN:]] = False
    return found


def _has_key(annotations: Annotations, key: str) -> Bools:
    """Whether annotations may have a key; that of an absent ``area`` is no news."""
    have = any(key in keys for keys in annotations.key_sets)
    return np.full(len(annotations), have)


def _is_absurd(corners: Floats, sizes: Floats) -> Bools:
    """Whether x1, y1, x2, y2 ``[N, 4]`` are many sides away from their images."""
    reach = np.tile(sizes, 2)
    return ((corners < -ABSURD * reach) | (corners > (ABSURD + 1) * reach)).any(1)


def _refuse(linked: Linked, wrong: Bools, kind: str, said: str, findings: Findings, remedy: str | None = None) -> None:
    """One finding for all of a kind, with the first of them; ``said`` may have places for its box and image size."""
    if not wrong.any():
        return
    index = int(np.flatnonzero(wrong)[0])
    size = "x".join(f"{side:.0f}" for side in linked.sizes[index])
    text = said.format(short(linked.annotations.boxes[index].tolist()), size, size=size) if "{" in said else said
    id_ = int(linked.annotations.ids[index])
    others = linked.ids(wrong)[1:]
    more = f" (and {len(others)} more: {listed(others)})" if others else ""
    findings.add(kind, f"annotation {id_}: {text}{more}", remedy=remedy, annotation_id=id_, count=len(others) + 1)


def tell(linked: Linked, which: Bools, kind: str, said: str, findings: Findings) -> None:
    """Add one finding for all of a kind, with the ids of the first."""
    ids = linked.ids(which)
    findings.add(kind, f"{said}annotation {listed(ids)}", annotation_id=ids[0], count=len(ids))
