"""A small sound data set that tests change."""

from __future__ import annotations

from typing import Any

WIDTH, HEIGHT = 16, 12


def sound() -> dict[str, Any]:
    """Two images, the second without annotations; three categories, ids neither sorted nor contiguous."""
    return {
        "info": {},
        "images": [
            {"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT},
            {"id": 2, "file_name": "b.png", "width": WIDTH, "height": HEIGHT},
        ],
        "annotations": [annotation(10, category_id=7), annotation(11), annotation(12, **box_at(3, 3))],
        "categories": [{"id": 7, "name": "fig"}, {"id": 3, "name": "date"}, {"id": 9, "name": "nut"}],
    }


def annotation(id_: int, **fields: Any) -> dict[str, Any]:
    return {"id": id_, "image_id": 1, "category_id": 3, **box_at(2, 2), "area": 48, "iscrowd": 0, **fields}


def box_at(x: float, y: float, width: float = 8, height: float = 6) -> dict[str, Any]:
    """A box and its mask."""
    right, bottom = x + width, y + height
    return {"bbox": [x, y, width, height], "segmentation": [[x, y, right, y, right, bottom, x, bottom]]}
