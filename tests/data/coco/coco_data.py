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
        "annotations": [annotation(10, category_id=7), annotation(11), annotation(12)],
        "categories": [{"id": 7, "name": "fig"}, {"id": 3, "name": "date"}, {"id": 9, "name": "nut"}],
    }


def annotation(id_: int, **fields: Any) -> dict[str, Any]:
    box = {"bbox": [2, 2, 8, 6], "segmentation": [[2, 2, 10, 2, 10, 8, 2, 8]], "area": 48, "iscrowd": 0}
    return {"id": id_, "image_id": 1, "category_id": 3, **box, **fields}
