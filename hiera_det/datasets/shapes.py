"""The built-in synthetic data set: five kinds of shapes on cluttered backgrounds, with exact masks, in COCO format.

It is there to try the whole chain (train, evaluate, draw) without a download: `write_shapes_dataset` makes a training
and a validation split whose images depend only on seed, split and number, so a larger set begins with the smaller one.

A scene is made in three steps. `place_shapes` chooses outlines such that a fair part of every shape
stays visible: whatever is drawn is annotated. `render` paints background, distractors and shapes, antialiased. Last,
`trace_polygons` walks along the pixel edges of each visible mask, so that rasterising the polygons returns the mask.

Pixel (row i, column j) is the square [j, j + 1] x [i, i + 1]; ``H``, ``W`` are the image's height and width, outlines
are ``[N, 2]`` in (x, y) pixels, colours run from 0 to 255, boxes are COCO's XYWH. NumPy and Pillow only.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from hiera_det.errors import InputError

__all__ = ["CLASS_NAMES", "ShapesPaths", "coverage", "draw_scene", "trace_polygons", "write_shapes_dataset"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Category id 1 is the first.
CLASS_NAMES = ("circle", "triangle", "rectangle", "star", "cross")
#: In the order of their random streams; only ever append.
SPLITS = ("train", "val")
#: Stored in the JSONs; to be raised when the same settings draw other images than before.
VERSION = 1
DESCRIPTION = "hiera_det synthetic shapes"
MIN_SIZE, MAX_SIZE = 32, 4096
MAX_SHAPES = 6
#: Diameter of a shape over the image's shorter side; a smaller one than MIN_DIAMETER pixels has no recognisable form.
SCALE = (0.15, 0.45)
MIN_DIAMETER = 12.0
#: Of a shape's whole area, and in pixels, this much stays visible; placements that would hide more are redrawn.
MIN_VISIBLE, MIN_PIXELS = 0.3, 16
TRIES = 60
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


@dataclass
class Shape:
    """A placed shape: category id, outline ``[N, 2]``, coverage ``[H, W]`` in 0..1, visible mask ``[H, W]``."""

    category: int
    outline: Array
    coverage: Array
    visible: Mask

    @property
    def least_visible(self) -> float:
        """Pixels that must stay visible, also of a shape that the image's border cuts."""
        return max(MIN_VISIBLE * abs(_area(self.outline)), MIN_PIXELS)


def coverage(outline: Array, height: int, width: int) -> Array:
    """Share of each pixel that a simple polygon covers, ``[H, W]`` in 0..1: exact along x, eight samples along y."""
    samples = 8
    y = (np.arange(height * samples) + 0.5) / samples
    start, end = outline, np.roll(outline, -1, axis=0)
    rows, edges = np.nonzero((start[:, 1] <= y[:, None]) != (end[:, 1] <= y[:, None]))
    (x0, y0), (x1, y1) = start[edges].T, end[edges].T
    x = np.clip(x0 + (y[rows] - y0) * (x1 - x0) / (y1 - y0), 0, width)
    # Right of a crossing, the winding number changes by the edge's sign; the pixel at the crossing gets its share.
    column = np.floor(x).astype(np.int64)
    sign = np.sign(y1 - y0) / samples
    cell = rows // samples * (width + 2) + column
    total = height * (width + 2)
    steps = np.bincount(cell, sign * (column + 1 - x), total) + np.bincount(cell + 1, sign * (x - column), total)
    return np.abs(steps.reshape(height, -1).cumsum(axis=1)[:, :width]).clip(0, 1)


def unit_outline(name: str, rng: np.random.Generator) -> Array:
    """Outline ``[N, 2]`` of a class, around 0 with circumradius 1; the proportions vary."""
    if name == "circle":
        return _polar(np.ones(72))
    if name == "triangle":
        half = rng.uniform(0.8, 1.1) * math.pi * 2 / 3  # a base corner's angle from the tip, around the centre
        return _corners([0, half, -half])
    if name == "rectangle":
        half = math.atan(rng.uniform(0.4, 1.0))
        return _corners([half, math.pi - half, math.pi + half, -half])
    if name == "star":
        return _polar(np.tile([1.0, rng.uniform(0.36, 0.46)], 5))
    arm = rng.uniform(0.24, 0.34)
    quarter = np.array([[1.0, -arm], [1.0, arm], [arm, arm]])
    turns = [np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]]) for a in np.arange(4) * math.pi / 2]
    cross = np.concatenate([quarter @ turn for turn in turns])
    return cross / math.hypot(1.0, arm)


def _corners(angles: list[float]) -> Array:
    """Points ``[N, 2]`` on the unit circle."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _polar(radii: Array) -> Array:
    """Points ``[N, 2]`` at these radii, evenly spaced in angle."""
    angles = np.arange(len(radii)) * 2 * math.pi / len(radii)
    return radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _put(outline: Array, centre: Array, radius: float, angle: float) -> Array:
    """Scale, turn and shift a unit outline."""
    cos, sin = math.cos(angle), math.sin(angle)
    return centre + radius * outline @ np.array([[cos, sin], [-sin, cos]])


def _area(outline: Array) -> float:
    """Signed area; positive where the points run clockwise on the screen."""
    x, y = outline.T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


def place_shapes(rng: np.random.Generator, height: int, width: int) -> list[Shape]:
    """One to six shapes, back to front, each with its visible mask; every one keeps a fair part visible."""
    shapes: list[Shape] = []
    wanted, tries = rng.integers(1, MAX_SHAPES + 1), 0
    while not shapes or (len(shapes) < wanted and tries < TRIES):
        _place(shapes, rng, height, width)
        tries += 1
    return shapes


def _place(shapes: list[Shape], rng: np.random.Generator, height: int, width: int) -> None:
    """Put one random shape in front of the others, unless too little of any of them would be seen."""
    side = min(height, width)
    category = int(rng.integers(len(CLASS_NAMES))) + 1
    diameter = max(side * math.exp(rng.uniform(*np.log(SCALE))), MIN_DIAMETER)
    centre = rng.uniform(0.1, 0.9, 2) * (width, height)
    outline = _put(unit_outline(CLASS_NAMES[category - 1], rng), centre, diameter / 2, rng.uniform(0, 2 * math.pi))
    covered = coverage(outline, height, width)
    front = Shape(category, outline, covered, covered >= 0.5)
    remains = [shape.visible & ~front.visible for shape in shapes]
    kept = [mask.sum() >= shape.least_visible for shape, mask in zip(shapes, remains, strict=True)]
    if front.visible.sum() >= front.least_visible and all(kept):
        for shape, mask in zip(shapes, remains, strict=True):
            shape.visible = mask
        shapes.append(front)


def _ramp(rng: np.random.Generator, height: int, width: int) -> Array:
    """Distance ``[H, W]`` along a random direction from the middle, in units of the shorter side."""
    angle = rng.uniform(0, 2 * math.pi)
    x, y = np.arange(width) - width / 2, np.arange(height)[:, None] - height / 2
    return (math.cos(angle) * x + math.sin(angle) * y) / min(height, width)


def _stripes(rng: np.random.Generator, height: int, width: int) -> Array:
    """Waves ``[H, W]`` in -1..1, 3 to 20 over the image."""
    return np.sin(2 * math.pi * (rng.uniform(3, 20) * _ramp(rng, height, width) + rng.uniform()))


def _smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> Array:
    """Normal noise ``[H, W]`` with about so many bumps along each side."""
    coarse = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)


def _texture(rng: np.random.Generator, height: int, width: int) -> Array:
    """Brightness ``[H, W]`` to add to a colour: shading from one side and plain, striped, chequered or mottled."""
    kind = rng.choice(["plain", "stripes", "checks", "mottled"])
    texture = rng.uniform(10, 60) * _ramp(rng, height, width)
    if kind == "stripes":
        texture += rng.uniform(8, 28) * _stripes(rng, height, width)
    elif kind == "checks":
        texture += rng.uniform(8, 22) * np.sign(_stripes(rng, height, width) * _stripes(rng, height, width))
    elif kind == "mottled":
        texture += rng.uniform(6, 18) * _smooth_noise(rng, height, width, int(rng.integers(12, 40)))
    return texture


def _blend(canvas: Array, colour: Array, cover: Array, texture: Array | float = 0.0) -> None:
    """Paint a colour ``[3]`` with a texture ``[H, W]`` over the canvas ``[H, W, 3]`` where it is covered."""
    paint = colour + np.broadcast_to(texture, cover.shape)[..., None]
    canvas += cover[..., None] * (paint - canvas)


def _blurred(values: Array, radius: float) -> Array:
    """Gaussian blur of ``[H, W]`` values in 0..1."""
    image = Image.fromarray(np.uint8(values * 255)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(image, dtype=np.float64) / 255


def _background(rng: np.random.Generator, height: int, width: int) -> Array:
    """Canvas ``[H, W, 3]``: soft colour noise, a texture, and distractors that are none of the classes."""
    side = min(height, width)
    noise = [_smooth_noise(rng, height, width, int(rng.integers(2, 8))) for _ in range(3)]
    canvas = rng.uniform(40, 215, 3) + rng.uniform(8, 30) * np.stack(noise, axis=-1)
    canvas += _texture(rng, height, width)[..., None]
    for _ in range(rng.integers(0, 5)):
        cover = coverage(_blob(rng, height, width), height, width)
        if rng.uniform() < 0.5:
            cover = _blurred(cover, rng.uniform(0.01, 0.04) * side)
        _blend(canvas, rng.uniform(20, 235, 3), rng.uniform(0.4, 1.0) * cover, _texture(rng, height, width))
    picture = Image.fromarray(np.uint8(canvas.clip(0, 255)))
    _scribble(ImageDraw.Draw(picture), rng, height, width)
    return np.asarray(picture, dtype=np.float64)


def _blob(rng: np.random.Generator, height: int, width: int) -> Array:
    """A long, dented outline, as of a leaf or a pebble heap; never round."""
    angles = np.arange(48) * 2 * math.pi / 48
    phase = rng.uniform(0, 2 * math.pi, 3)
    radii = 1 + 0.3 * np.sin(2 * angles + phase[0]) + 0.2 * np.sin(3 * angles + phase[1])
    stretched = _polar(radii + 0.08 * np.sin(5 * angles + phase[2])) * (1.0, rng.uniform(0.3, 0.6))
    radius = min(height, width) * rng.uniform(0.05, 0.22)
    return _put(stretched, rng.uniform(0, 1, 2) * (width, height), radius, rng.uniform(0, 2 * math.pi))


def _scribble(draw: ImageDraw.ImageDraw, rng: np.random.Generator, height: int, width: int) -> None:
    """Thin lines, open arcs and specks."""
    side = min(height, width)
    for _ in range(rng.integers(0, 7)):
        colour, thick = _ink(rng), int(rng.integers(1, max(2, side // 64) + 1))
        (x0, y0), (x1, y1) = (rng.uniform(-0.1, 1.1, (2, 2)) * (width, height)).tolist()
        if rng.uniform() < 0.6:
            draw.line([x0, y0, x1, y1], fill=colour, width=thick)
        else:
            first = rng.uniform(0, 360)
            box = [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]
            draw.arc(box, first, first + rng.uniform(40, 160), fill=colour, width=thick)
    for x, y in (rng.uniform(0, 1, (int(rng.integers(0, 40)), 2)) * (width, height)).tolist():
        draw.rectangle([x, y, x + int(rng.integers(0, 2)), y + int(rng.integers(0, 2))], fill=_ink(rng))


def _ink(rng: np.random.Generator) -> tuple[int, int, int]:
    """A colour for Pillow."""
    red, green, blue = rng.integers(20, 236, 3).tolist()
    return red, green, blue


def _distinct_colour(rng: np.random.Generator, behind: Array) -> Array:
    """Of four random colours the one that differs most from the pixels ``[N, 3]`` behind: a shape can be seen."""
    colours = rng.uniform(20, 235, (4, 3))
    distance = np.linalg.norm(colours - behind.mean(axis=0), axis=1)
    return np.asarray(colours[distance.argmax()])


def render(rng: np.random.Generator, shapes: list[Shape], height: int, width: int) -> NDArray[np.uint8]:
    """Paint the shapes back to front over a background, as a camera would see them: ``[H, W, 3]`` RGB."""
    side = min(height, width)
    canvas = _background(rng, height, width)
    light = rng.uniform(-0.03, 0.03, 2) * side  # where the shadows fall
    for shape in shapes:
        colour = _distinct_colour(rng, canvas[shape.coverage >= 0.5])
        shadow = _blurred(coverage(shape.outline + light, height, width), 0.015 * side)
        _blend(canvas, np.zeros(3), rng.uniform(0.0, 0.5) * shadow)
        _blend(canvas, colour, shape.coverage, _texture(rng, height, width))
    picture = Image.fromarray(np.uint8(canvas.clip(0, 255)))
    seen = np.asarray(picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8))), dtype=np.float64)
    return np.uint8((seen + rng.normal(scale=rng.uniform(1, 6), size=seen.shape)).clip(0, 255))


def draw_scene(seed: int, split: int, index: int, height: int, width: int) -> tuple[NDArray[np.uint8], list[Shape]]:
    """Image ``[H, W, 3]`` RGB and its shapes, back to front; the arguments alone decide it."""
    rng = np.random.default_rng([seed, split, index])
    shapes = place_shapes(rng, height, width)
    return render(rng, shapes, height, width), shapes


def trace_polygons(mask: Mask) -> list[list[float]]:
    """Polygons ``[x0, y0, x1, y1, ...]`` along the pixel edges of a mask ``[H, W]``; together exactly the mask.

    One per 4-connected part. COCO's polygons cannot have holes: a mask with one is cut in two through it.
    """
    loops = list(_loops(mask))
    for loop in loops:
        if _area(loop) < 0:
            cut = int(loop[:, 0].min() + loop[:, 0].max()) // 2
            columns = np.arange(mask.shape[1])
            return trace_polygons(mask & (columns < cut)) + trace_polygons(mask & (columns >= cut))
    # Floats: detectron2 would resize whole numbers in integer arithmetic.
    return [loop.ravel().tolist() for loop in loops]


def _loops(mask: Mask) -> Iterator[Array]:
    """Closed boundaries ``[N, 2]``, corners only: clockwise on the screen around a part, the other way in a hole."""
    inside = np.pad(mask, 1)
    steps = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up; the mask is on the right hand of each step
    edges: set[tuple[int, int, int]] = set()  # x, y of the start, direction
    for direction, (axis, shift, dx, dy) in enumerate([(0, 1, 0, 0), (1, -1, 1, 0), (0, -1, 1, 1), (1, 1, 0, 1)]):
        rows, columns = np.nonzero((inside & ~np.roll(inside, shift, axis))[1:-1, 1:-1])
        edges.update(zip((columns + dx).tolist(), (rows + dy).tolist(), [direction] * len(rows), strict=True))
    while edges:
        start = x, y, direction = min(edges)
        corners: list[tuple[int, int]] = []
        while True:
            edges.discard((x, y, direction))
            x, y = x + steps[direction][0], y + steps[direction][1]
            # Where two parts touch at a corner both turns exist: turning right stays with the part.
            turns = [(direction + turn) % 4 for turn in (1, 0, 3)]
            following = next((d for d in turns if (x, y, d) in edges or (x, y, d) == start), None)
            assert following is not None  # every boundary closes
            if following != direction:
                corners.append((x, y))
            direction = following
            if (x, y, direction) == start:
                break
        yield np.array(corners, dtype=np.float64)


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
        overwrite: replace a shapes data set with other settings; any other folder is left alone.
        progress: called after each image with the images done and to do.

    Raises:
        InputError: a setting makes no sense, the folder holds something else, or it cannot be written.
    """
    out = Path(out)
    height, width = (size, size) if isinstance(size, int) else size
    settings = {"version": VERSION, "train": train, "val": val, "size": [height, width], "seed": seed}
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
            _move(building, target)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error}); choose another folder") from None
    return _paths(out)


def _check_settings(settings: dict[str, Any]) -> None:
    """Refuse what cannot be drawn."""
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


def _empty_coco(settings: dict[str, Any], split: str) -> dict[str, Any]:
    """A COCO JSON without images; no date, so that the same settings give the same bytes."""
    names = enumerate(CLASS_NAMES, start=1)
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
    pixels, shapes = draw_scene(settings["seed"], split, index, height, width)
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
                _outline(draw, annotation, scale)
        grid.paste(tile, (place % columns * width, place // columns * height))
    return grid


def _outline(draw: ImageDraw.ImageDraw, annotation: dict[str, Any], scale: float) -> None:
    """Draw an annotation's polygons and its class name at the left upper corner of its box."""
    number = annotation["category_id"] - 1
    for polygon in annotation["segmentation"]:
        points = [scale * value for value in polygon]
        draw.line(points + points[:2], fill=PREVIEW_COLOURS[number])
    x, y = (scale * value for value in annotation["bbox"][:2])
    draw.text((x + 2, y + 1), CLASS_NAMES[number], fill=PREVIEW_COLOURS[number], stroke_width=1, stroke_fill="black")


def _move(building: Path, target: Path) -> None:
    """Put the finished folder in its place; what it replaces is deleted after that."""
    if not target.exists():
        building.rename(target)
        return
    old = building.with_suffix(".old")
    target.rename(old)
    try:
        building.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
