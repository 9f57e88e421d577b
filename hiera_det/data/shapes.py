"""The built-in synthetic data sets, with exact masks, in COCO format: shapes on clutter, or many small cells.

It is there to try the whole chain (train, evaluate, draw) without a download: `write_shapes_dataset` makes a training
and a validation split whose images depend only on seed, split and number, so a larger set begins with the smaller one.
How an image is drawn is in `scenes` and `cells`. Boxes are COCO's XYWH in pixels. NumPy and Pillow only.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from hiera_det.data import cells, scenes
from hiera_det.data.scenes import Shape, trace_polygons
from hiera_det.errors import InputError
from hiera_det.files import put_folder

__all__ = ["ShapesPaths", "write_shapes_dataset"]

#: In the order of their random streams; only ever append.
SPLITS = ("train", "val")
#: Stored in the JSONs; to be raised when the same settings draw other images than before.
VERSION = 1
DESCRIPTION = "hiera_det synthetic shapes"
#: What draws the images of a kind, and names its classes.
KINDS = {"shapes": scenes, "cells": cells}
MIN_SIZE, MAX_SIZE = 32, 4096
JPEG_QUALITY = 92
PREVIEW_IMAGES, PREVIEW_COLUMNS, PREVIEW_SIDE = 12, 4, 256
PREVIEW_COLOURS = ("#ff3b30", "#34ff59", "#30a8ff", "#ffe030", "#ff4dff")


@dataclass(frozen=True)
class ShapesPaths:
    """Where a data set lies; ``reused`` says that it was there already, made with the same settings."""

    train_json: Path
    train_images: Path
    val_json: Path
    val_images: Path
    preview: Path
    reused: bool = False


def _annotation(shape: Shape) -> dict[str, Any]:
    """COCO's entry for the visible part of a shape, less its ids."""
    rows, columns = np.nonzero(shape.visible)
    x, y = int(columns.min()), int(rows.min())
    return {
        "category_id": shape.category,
        "segmentation": trace_polygons(shape.visible),
        "area": float(len(rows)),
        "bbox": [float(x), float(y), float(columns.max() + 1 - x), float(rows.max() + 1 - y)],
        "iscrowd": 0,
    }


def write_shapes_dataset(
    out: str | os.PathLike[str],
    train: int = 400,
    val: int = 60,
    size: int | tuple[int, int] = 256,
    seed: int = 0,
    *,
    kind: str = "shapes",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ShapesPaths:
    """Write the data set into a folder, all of it or nothing; leave one with the same settings as it is.

    Args:
        out: the folder: ``annotations/{train,val}.json``, ``images/{train,val}/000000.jpg``, ..., ``preview.png``.
        train: training images.
        val: validation images.
        size: side of the images in pixels, or (height, width).
        seed: 0 or more; another seed, other images.
        kind: ``shapes``, one to six large ones of five classes, or ``cells``, dozens of small ones of two.
        overwrite: replace a shapes data set with other settings; any other folder is left alone.
        progress: called after each image with the images done and to do.

    Raises:
        InputError: a setting makes no sense, the folder holds something else, or it cannot be written.
    """
    out = Path(out)
    height, width = (size, size) if isinstance(size, int) else size
    settings = {"version": VERSION, "train": train, "val": val, "size": [height, width], "seed": seed}
    settings |= {"kind": kind} if kind != "shapes" else {}
    _check_settings(settings)
    target = out.resolve()  # through a link, so that a data set behind it is replaced, not the link
    try:
        if _is_there(out, settings, overwrite):
            return _paths(out, reused=True)
        if target == Path.cwd():  # its own folder would be replaced under the user's feet
            raise InputError(f"{out}: is the current folder; name a new one")
        target.parent.mkdir(parents=True, exist_ok=True)
        building = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            _build(building, settings, progress)
            put_folder(building, target)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error}); choose another folder") from None
    return _paths(out)


def _check_settings(settings: dict[str, Any]) -> None:
    """Refuse what cannot be drawn."""
    if settings.get("kind", "shapes") not in KINDS:
        raise InputError(f"kind {settings['kind']}: choose from {', '.join(KINDS)}")
    for key, least in (("train", 1), ("val", 1), ("seed", 0)):
        if settings[key] < least:
            raise InputError(f"{key} {settings[key]}: must be at least {least}")
    height, width = settings["size"]
    if not (MIN_SIZE <= height <= MAX_SIZE and MIN_SIZE <= width <= MAX_SIZE):
        raise InputError(f"size {height}x{width}: height and width must be {MIN_SIZE} to {MAX_SIZE} pixels")


def _paths(out: Path, reused: bool = False) -> ShapesPaths:
    """The places inside a data set's folder."""
    notes, images = out / "annotations", out / "images"
    return ShapesPaths(
        train_json=notes / "train.json",
        train_images=images / "train",
        val_json=notes / "val.json",
        val_images=images / "val",
        preview=out / "preview.png",
        reused=reused,
    )


def _is_there(out: Path, settings: dict[str, Any], overwrite: bool) -> bool:
    """Whether the folder holds this very data set; where it holds anything that is to be kept, raise."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    found = _settings_of(out)
    if found is None:
        raise InputError(f"{out}: exists and is not a shapes data set; choose another folder")
    expected = _files(found)
    present = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir() or path.is_symlink()}
    missing, foreign = sorted(expected - present), sorted(present - expected)
    if found == settings and not missing and not overwrite:
        return True
    if overwrite and not foreign:
        return False
    if foreign:
        raise InputError(f"{out}: holds files of others ({foreign[0]}); move them or choose another folder")
    what = f"lacks {missing[0]}" if missing else f"was made with other settings ({_told(found)})"
    raise InputError(f"{out}: exists and {what}; choose another folder or use --overwrite")


def _settings_of(out: Path) -> dict[str, Any] | None:
    """The settings stored in a data set's JSON; None where there is none."""
    try:
        info = json.loads(_paths(out).train_json.read_text(encoding="utf-8"))["info"]
        settings = info["settings"] if info["description"] == DESCRIPTION else None
        return settings if isinstance(settings, dict) and _files(settings) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _files(settings: dict[str, Any]) -> set[str]:
    """Every file of a data set, relative to its folder."""
    images = {f"images/{split}/{index:06d}.jpg" for split in SPLITS for index in range(settings[split])}
    return images | {f"annotations/{split}.json" for split in SPLITS} | {"preview.png"}


def _told(settings: dict[str, Any]) -> str:
    """Settings in a message."""
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def _build(folder: Path, settings: dict[str, Any], progress: Callable[[int, int], None] | None) -> None:
    """Write a whole data set into a new folder."""
    total, done = settings["train"] + settings["val"], 0
    (folder / "annotations").mkdir(parents=True)
    for number, split in enumerate(SPLITS):
        coco = _empty_coco(settings, split)
        images = folder / "images" / split
        images.mkdir(parents=True)
        for index in range(settings[split]):
            _add_image(coco, images, number, index, settings)
            done += 1
            if progress is not None:
                progress(done, total)
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(coco, separators=(",", ":")), "utf-8")
        if split == "train":
            _preview(coco, images).save(folder / "preview.png")


def _drawing(settings: dict[str, Any]) -> Any:
    """The module that draws the images."""
    return KINDS[settings.get("kind", "shapes")]


def _empty_coco(settings: dict[str, Any], split: str) -> dict[str, Any]:
    """A COCO JSON without images; no date, so that the same settings give the same bytes."""
    names = enumerate(_drawing(settings).CLASS_NAMES, start=1)
    return {
        "info": {"description": DESCRIPTION, "split": split, "settings": settings},
        "licenses": [],
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": name, "supercategory": "shape"} for i, name in names],
    }


def _add_image(coco: dict[str, Any], images: Path, split: int, index: int, settings: dict[str, Any]) -> None:
    """Draw one image, save it and append it and its annotations to the JSON; ids start at 1."""
    height, width = settings["size"]
    pixels, shapes = _drawing(settings).draw_scene(settings["seed"], split, index, height, width)
    name = f"{index:06d}.jpg"
    Image.fromarray(pixels).save(images / name, quality=JPEG_QUALITY)
    coco["images"].append({"id": index + 1, "file_name": name, "width": width, "height": height})
    for shape in shapes:
        ids = {"id": len(coco["annotations"]) + 1, "image_id": index + 1}
        coco["annotations"].append(ids | _annotation(shape))


def _preview(coco: dict[str, Any], images: Path) -> Image.Image:
    """The first images in a grid, with outlines and names in the colours of their classes."""
    chosen = coco["images"][:PREVIEW_IMAGES]
    scale = PREVIEW_SIDE / max(chosen[0]["width"], chosen[0]["height"])
    width, height = round(chosen[0]["width"] * scale), round(chosen[0]["height"] * scale)
    columns = min(PREVIEW_COLUMNS, len(chosen))
    grid = Image.new("RGB", (columns * width, -(-len(chosen) // columns) * height))
    for place, image in enumerate(chosen):
        with Image.open(images / image["file_name"]) as picture:
            tile = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(tile)
        for annotation in coco["annotations"]:
            if annotation["image_id"] == image["id"]:
                _outline(draw, annotation, scale, coco["categories"][annotation["category_id"] - 1]["name"])
        grid.paste(tile, (place % columns * width, place // columns * height))
    return grid


def _outline(draw: ImageDraw.ImageDraw, annotation: dict[str, Any], scale: float, name: str) -> None:
    """Draw an annotation's polygons and its class name at the left upper corner of its box."""
    number = annotation["category_id"] - 1
    for polygon in annotation["segmentation"]:
        points = [scale * value for value in polygon]
        draw.line(points + points[:2], fill=PREVIEW_COLOURS[number])
    x, y = (scale * value for value in annotation["bbox"][:2])
    draw.text((x + 2, y + 1), name, fill=PREVIEW_COLOURS[number], stroke_width=1, stroke_fill="black")
