"""Scenes of the built-in data set: shapes on a cluttered background, and the exact polygons of what is visible.

A scene is made in three steps. `place_shapes` chooses outlines such that a fair part of every shape
stays visible: whatever is drawn is annotated. `render` paints background, distractors and shapes, antialiased. Last,
`trace_polygons` walks along the pixel edges of each visible mask, so that rasterising the polygons returns the mask.

Pixel (row i, column j) is the square [j, j + 1] x [i, i + 1]; ``H``, ``W`` are the image's height and width, outlines
are ``[N, 2]`` in (x, y) pixels, colours run from 0 to 255. NumPy and Pillow only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

__all__ = [
    "CLASS_NAMES",
    "Shape",
    "add_in_front",
    "blend",
    "coverage",
    "draw_scene",
    "polar",
    "put",
    "smooth_noise",
    "trace_polygons",
]

Array: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

#: Category id 1 is the first.
CLASS_NAMES = ("circle", "triangle", "rectangle", "star", "cross")
MAX_SHAPES = 6
#: Diameter of a shape over the image's shorter side; a smaller one than MIN_DIAMETER pixels has no recognisable form.
SCALE = (0.18, 0.45)
MIN_DIAMETER = 12.0
#: Of a shape's whole area, and in pixels, this much stays visible; placements that would hide more are redrawn.
MIN_VISIBLE, MIN_PIXELS = 0.5, 16
TRIES = 60


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
        return polar(np.ones(72))
    if name == "triangle":
        half = rng.uniform(0.8, 1.1) * math.pi * 2 / 3  # a base corner's angle from the tip, around the centre
        return _corners([0, half, -half])
    if name == "rectangle":
        half = math.atan(rng.uniform(0.4, 1.0))
        return _corners([half, math.pi - half, math.pi + half, -half])
    if name == "star":
        return polar(np.tile([1.0, rng.uniform(0.36, 0.46)], 5))
    arm = rng.uniform(0.24, 0.34)
    quarter = np.array([[1.0, -arm], [1.0, arm], [arm, arm]])
    turns = [np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]]) for a in np.arange(4) * math.pi / 2]
    cross = np.concatenate([quarter @ turn for turn in turns])
    return cross / math.hypot(1.0, arm)


def _corners(angles: list[float]) -> Array:
    """Points ``[N, 2]`` on the unit circle."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def polar(radii: Array) -> Array:
    """Points ``[N, 2]`` at these radii, evenly spaced in angle."""
    angles = np.arange(len(radii)) * 2 * math.pi / len(radii)
    return radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def put(outline: Array, centre: Array, radius: float, angle: float) -> Array:
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
    """Try to put one random shape in front of the others."""
    side = min(height, width)
    category = int(rng.integers(len(CLASS_NAMES))) + 1
    diameter = max(side * math.exp(rng.uniform(*np.log(SCALE))), MIN_DIAMETER)
    centre = rng.uniform(0.1, 0.9, 2) * (width, height)
    outline = put(unit_outline(CLASS_NAMES[category - 1], rng), centre, diameter / 2, rng.uniform(0, 2 * math.pi))
    add_in_front(shapes, category, outline, height, width)


def add_in_front(shapes: list[Shape], category: int, outline: Array, height: int, width: int) -> None:
    """Put a shape in front of the others, unless too little of any of them would be seen."""
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


def smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> Array:
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
        texture += rng.uniform(6, 18) * smooth_noise(rng, height, width, int(rng.integers(12, 40)))
    return texture


def blend(canvas: Array, colour: Array, cover: Array, texture: Array | float = 0.0) -> None:
    """Paint a colour ``[3]`` with a texture ``[H, W]`` over the canvas ``[H, W, 3]`` where it is covered."""
    paint = colour + np.broadcast_to(texture, cover.shape)[..., None]
    canvas += cover[..., None] * (paint - canvas)


def _blurred(values: Array, radius: float) -> Array:
    """Gaussian blur of ``[H, W]`` values in 0..1."""
    image = Image.fromarray((values * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(image, dtype=np.float64) / 255


def _background(rng: np.random.Generator, height: int, width: int) -> Array:
    """Canvas ``[H, W, 3]``: soft colour noise, a texture, and distractors that are none of the classes."""
    side = min(height, width)
    noise = [smooth_noise(rng, height, width, int(rng.integers(2, 8))) for _ in range(3)]
    canvas = rng.uniform(40, 215, 3) + rng.uniform(8, 30) * np.stack(noise, axis=-1)
    canvas += _texture(rng, height, width)[..., None]
    for _ in range(rng.integers(0, 5)):
        cover = coverage(_blob(rng, height, width), height, width)
        if rng.uniform() < 0.5:
            cover = _blurred(cover, rng.uniform(0.01, 0.04) * side)
        blend(canvas, rng.uniform(20, 235, 3), rng.uniform(0.4, 1.0) * cover, _texture(rng, height, width))
    picture = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    _scribble(ImageDraw.Draw(picture), rng, height, width)
    return np.asarray(picture, dtype=np.float64)


def _blob(rng: np.random.Generator, height: int, width: int) -> Array:
    """A long, dented outline, as of a leaf or a pebble heap; never round."""
    angles = np.arange(48) * 2 * math.pi / 48
    phase = rng.uniform(0, 2 * math.pi, 3)
    radii = 1 + 0.3 * np.sin(2 * angles + phase[0]) + 0.2 * np.sin(3 * angles + phase[1])
    stretched = polar(radii + 0.08 * np.sin(5 * angles + phase[2])) * (1.0, rng.uniform(0.3, 0.6))
    radius = min(height, width) * rng.uniform(0.05, 0.22)
    return put(stretched, rng.uniform(0, 1, 2) * (width, height), radius, rng.uniform(0, 2 * math.pi))


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
        blend(canvas, np.zeros(3), rng.uniform(0.0, 0.5) * shadow)
        blend(canvas, colour, shape.coverage, _texture(rng, height, width))
    picture = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    seen = np.asarray(picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8))), dtype=np.float64)
    return (seen + rng.normal(scale=rng.uniform(1, 6), size=seen.shape)).clip(0, 255).astype(np.uint8)


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
