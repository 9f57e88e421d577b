"""Which image of a COCO JSON a file is, by its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from hiera_det.data.coco.read import read_coco
from hiera_det.errors import InputError

__all__ = ["ImageIds", "read_images_json"]


class ImageIds:
    """Ids of images by as much of their path as the JSON's ``file_name`` has.

    Args:
        images: the JSON's, with ``id`` and ``file_name``.
    """

    def __init__(self, images: Iterable[Mapping[str, Any]]) -> None:
        self._ids: dict[str, Any] = {}
        self._stems: dict[str, list[Any]] = {}
        for image in images:
            self._ids[_plain(image["file_name"])] = image["id"]
            self._stems.setdefault(_plain_stem(PurePath(_plain(image["file_name"])).stem), []).append(image["id"])

    def of_file(self, path: str) -> Any | None:
        """The id of a file: ``a/b/c.jpg`` is ``a/b/c.jpg``, else ``b/c.jpg``, else ``c.jpg``; None where none is."""
        parts = _plain(path).split("/")
        names = ("/".join(parts[start:]) for start in range(len(parts)))
        return next((self._ids[name] for name in names if name in self._ids), None)

    def of_stem(self, stem: str | int) -> Any | None:
        """The id of the only image whose file is called so, without its ending; None where none or several are.

        A number stands for a name of digits, as some tools write it: 123 for ``000123.jpg``.
        """
        ids = self._stems.get(_plain_stem(str(stem)), [])
        return ids[0] if len(ids) == 1 else None


def read_images_json(path: str) -> tuple[ImageIds, list[dict[str, Any]]]:
    """Images and categories of a COCO JSON; its annotations do not matter.

    Returns:
        the images' ids, and the categories in ascending order of their ids, ``{"id", "name"}``.

    Raises:
        InputError: it cannot be read, or lacks images, categories, or one of their entries.
    """
    data = read_coco(path).top
    for key, name in (("images", "file_name"), ("categories", "name")):
        rows = data.get(key)
        if not isinstance(rows, list) or not all(_is_entry(row, name) for row in rows):
            raise InputError(f"{path}: {key} must be a list of objects with id, a number, and {name}; give a COCO JSON")
    categories = sorted(data["categories"], key=lambda category: category["id"])
    return ImageIds(data["images"]), [{"id": row["id"], "name": row["name"]} for row in categories]


def _is_entry(row: Any, name: str) -> bool:
    """Whether this is an object with a number for its id and a text for its name."""
    return isinstance(row, dict) and type(row.get("id")) is int and isinstance(row.get(name), str)


def _plain(path: str) -> str:
    return path.replace("\\", "/").removeprefix("./")


def _plain_stem(stem: str) -> str:
    """A name without its ending; of digits without the zeros in front."""
    return str(int(stem)) if stem.isdecimal() and len(stem) < 20 else stem
