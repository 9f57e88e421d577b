"""Scenes of many small objects: cells under a microscope, round ones and rods, on a bright ground.

As `scenes`: dozens of objects that touch and cover each other a little, a twelfth to a thirtieth of the image long.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hiera_det.data.scenes import Array, Shape, add_in_front, blend, coverage, polar, put, smooth_noise

__all__ = ["CLASS_NAMES", "draw_scene"]

#: Category id 1 is the first.
CLASS_NAMES = ("round", "rod")
#: Objects of an image, as far as there is room.
COUNT = (15, 50)
#: Length over the image's shorter side, and in pixels at least.
SCALE = (0.035, 0.085)
MIN_LENGTH = 7.0
#: Part of a cell that lies inside its rim.
CORE = 0.6


def draw_scene(seed: int, split: int, index: int, height: int, width: int) -> tuple[NDArray[np.uint8], list[Shape]]:
    """Image ``[H, W, 3]`` RGB and its cells, back to front; the arguments alone decide it."""
    rng = np.random.default_rng([seed, split, index, len(CLASS_NAMES)])  # other numbers than the shapes have
    cells: list[Shape] = []
    for _ in range(rng.integers(*COUNT, endpoint=True)):
        _place(cells, rng, height, width)
    while not cells:
        _place(cells, rng, height, width)
    return _render(rng, cells, height, width), cells


def _place(cells: list[Shape], rng: np.random.Generator, height: int, width: int) -> None:
    """Try to put one random cell in front of the others."""
    category = int(rng.integers(len(CLASS_NAMES))) + 1
    length = max(min(height, width) * math.exp(rng.uniform(*np.log(SCALE))), MIN_LENGTH)
    slimness = rng.uniform(0.8, 1.0) if category == 1 else rng.uniform(0.35, 0.5)
    dents = 1 + rng.uniform(0, 0.06) * np.sin(3 * np.arange(24) * math.pi / 12 + rng.uniform(0, 2 * math.pi))
    centre = rng.uniform(0.02, 0.98, 2) * (width, height)
    outline = put(polar(dents) * (1.0, slimness), centre, length / 2, rng.uniform(0, 2 * math.pi))
    add_in_front(cells, category, outline, height, width)


def _render(rng: np.random.Generator, cells: list[Shape], height: int, width: int) -> NDArray[np.uint8]:
    """Paint cells with a dark rim and a paler inside over uneven light."""
    noise = smooth_noise(rng, height, width, int(rng.integers(3, 7)))
    canvas = rng.uniform(180, 225, 3) + rng.uniform(6, 16) * noise[..., None]
    stain = rng.uniform(-90, -45, 3)  # of an image, as of one slide
    for cell in cells:
        middle = cell.outline.mean(axis=0)
        inside = coverage(middle + CORE * (cell.outline - middle), height, width)
        colour = canvas[cell.coverage >= 0.5].mean(axis=0) + stain * rng.uniform(0.6, 1.2)
        blend(canvas, colour, cell.coverage, _grain(rng, height, width))
        blend(canvas, colour + rng.uniform(15, 40), 0.8 * inside)
    seen = canvas + rng.normal(scale=rng.uniform(2, 7), size=canvas.shape)
    return np.asarray(seen.clip(0, 255).astype(np.uint8))


def _grain(rng: np.random.Generator, height: int, width: int) -> Array:
    """What is inside a cell is not even: ``[H, W]``."""
    return rng.uniform(2, 8) * smooth_noise(rng, height, width, 40)
