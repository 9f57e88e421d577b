"""Drawing objects on an image: masks, boxes and labels, in colours that are told apart.

Letters in shapes: N objects of one picture, H and W its height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer
from PIL import Image
from torch import Tensor

__all__ = ["PALETTE", "Mask", "Objects", "class_name", "draw_objects", "predicted_objects"]

#: Colours of the objects, told apart on photographs and from each other; RGB in 0-1.
PALETTE: tuple[tuple[float, float, float], ...] = (
    (0.00, 0.85, 0.95),
    (1.00, 0.55, 0.05),
    (0.35, 0.90, 0.25),
    (1.00, 0.30, 0.75),
    (1.00, 0.90, 0.10),
    (0.60, 0.50, 1.00),
    (1.00, 0.30, 0.25),
    (0.20, 0.60, 1.00),
    (0.70, 1.00, 0.70),
    (0.90, 0.70, 0.55),
)

#: Longest side in pixels up to which letters have their plain size.
PLAIN_SIDE = 640

# What the Visualizer takes for one mask: polygons [x0, y0, x1, y1, ...] (none: no mask), or a binary map [H, W].
Mask: TypeAlias = list[npt.NDArray[np.float64]] | npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Objects:
    """What is drawn on one picture, in the picture's pixels.

    Attributes:
        boxes: XYXY ``[N, 4]``.
        labels: N texts, "" for none.
        masks: N masks, or None where there are none at all.
    """

    boxes: Tensor
    labels: list[str]
    masks: list[Mask] | None


def predicted_objects(instances: Instances, threshold: float, names: Sequence[str] | None) -> tuple[Objects, int]:
    """The predictions of at least that score, and how many there are of any score."""
    kept = instances[instances.scores >= threshold]
    labels = [
        f"{class_name(category, names)} {score:.2f}"
        for category, score in zip(kept.pred_classes.tolist(), kept.scores.tolist(), strict=True)
    ]
    masks: list[Mask] | None = None
    if kept.has("pred_masks"):
        masks = list(kept.pred_masks.numpy().astype(np.uint8))
    return Objects(kept.pred_boxes.tensor, labels, masks), len(instances)


def class_name(category: int, names: Sequence[str] | None) -> str:
    """The name of a class by its index, or a stand-in where it has none."""
    return names[category] if names and category < len(names) else f"class {category}"


def draw_objects(
    image: npt.NDArray[np.uint8], objects: Objects, colors: Sequence[tuple[float, float, float]]
) -> Image.Image:
    """An RGB image ``[H, W, 3]`` with its objects; lines and letters grow with the image."""
    visualizer = Visualizer(image)
    if not objects.labels:  # 0.6 cannot draw an empty list of masks
        return Image.fromarray(image)
    visualizer.overlay_instances(boxes=objects.boxes, masks=objects.masks, assigned_colors=list(colors), alpha=0.35)
    # The labels apart: 0.6 computes a colour for them that rounding can put above 1, which matplotlib refuses.
    for box, label, color in zip(objects.boxes.tolist(), objects.labels, colors, strict=True):
        if not label:
            continue
        place, font_size = _label_place(box, label, *image.shape[:2])
        text = label.replace("$", r"\$")  # not a formula
        visualizer.draw_text(text, place, font_size=font_size, color=np.array(color), horizontal_alignment="left")
    return Image.fromarray(np.ascontiguousarray(visualizer.get_output().get_image()))


def _label_place(box: Sequence[float], label: str, height: int, width: int) -> tuple[tuple[float, float], float]:
    """Left top corner (x, y) of a label and its font size in points: above the box, or inside where it would leave."""
    x0, y0, x1, y1 = box
    scale = max(1.0, max(height, width) / PLAIN_SIDE)
    font_size = scale * (9 if min(x1 - x0, y1 - y0) >= 48 * scale else 7)
    above = 2.0 * font_size  # at 100 dots an inch, with the margin around the letters
    length = 0.85 * font_size * len(label)
    return (min(max(x0, 2.0), max(width - length, 2.0)), y0 - above if y0 >= above else max(y0, 2.0)), font_size
