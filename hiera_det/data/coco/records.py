"""A checked COCO JSON for loaders and evaluators: a record of each image, made of the columns that were read.

`CocoRecords` takes the place of a list of dictionaries and of its serialised copy: a training on COCO holds its 949,000
annotations once, in arrays that worker processes share. `coco_of` is pycocotools' view of the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json as json_module
import os
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from hiera_det.data.coco.check import check_coco_json
from hiera_det.data.coco.read import read_coco
from hiera_det.data.coco.schema import Contents
from hiera_det.data.coco.write import dataset_of

__all__ = ["CocoRecords", "coco_of"]


def coco_of(json: str, root: str) -> COCO:
    """Pycocotools' view of a JSON, which is read and checked where that was not done yet; it is made anew each time."""
    api = COCO()
    api.dataset = dataset_of(_contents(json, root))
    with contextlib.redirect_stdout(io.StringIO()):
        api.createIndex()
    return api


def _contents(json: str, root: str) -> Contents:
    """What a JSON holds; it is checked where the file has changed, or is no longer kept."""
    if read_coco(json).contents is None:
        check_coco_json(json, root, require_annotations=False, check_files=False)
    contents = read_coco(json).contents
    assert contents is not None
    return contents


class CocoRecords:
    """The records, in the order of the image ids: detectron2's, without ``bbox_mode``, boxes being COCO's XYWH.

    Boxes and polygons are floats: detectron2 scales them in place, in arrays of the numbers' own type, where whole
    numbers would be cut off. Annotations in which there is nothing to find are left out.

    Args:
        json: the JSON; it is checked where this process has not done so.
        root: its image folder.
        filter_empty: leave out images without annotations other than crowd regions.
        min_keypoints: leave out images with fewer visible keypoints.
    """

    def __init__(self, json: str, root: str, *, filter_empty: bool = False, min_keypoints: int = 0) -> None:
        contents = _contents(json, root)
        self._root, self._contents = root, contents
        # As bytes in one array: a worker process that looks at a Python object copies the memory it lies in.
        names = [image["file_name"].encode("utf-8", "surrogatepass") for image in contents.images.values()]
        self._names = np.frombuffer(b"".join(names), np.uint8)
        self._ends: Any = np.cumsum([0, *map(len, names)])
        self._sizes = np.array([(image["height"], image["width"]) for image in contents.images.values()], np.int64)
        self._ids = list(contents.images)
        self._classes: Any = np.searchsorted(sorted(contents.names), contents.annotations.category_ids)
        kept: Any = np.flatnonzero(~contents.annotations.is_empty)
        rows = contents.rows[kept]
        self._order: Any = kept[np.argsort(rows, kind="stable")]
        self._bounds: Any = np.searchsorted(np.sort(rows), np.arange(len(names) + 1))
        # By id, as detectron2 has it: which image is drawn for a seed depends on it.
        places = np.array(sorted(range(len(names)), key=self._ids.__getitem__), np.int64)
        self._places = places[self._wanted(filter_empty, min_keypoints)[places]]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: int) -> dict[str, Any]:
        """A record of its own: whoever gets it may change it."""
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        row = int(self._places[place])
        height, width = self._sizes[row].tolist()
        name = self._names[self._ends[row] : self._ends[row + 1]].tobytes().decode("utf-8", "surrogatepass")
        return {
            "file_name": os.path.join(self._root, name),
            "height": height,
            "width": width,
            "image_id": self._ids[row],
            "annotations": self._instances(self._order[self._bounds[row] : self._bounds[row + 1]]),
        }

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Height and width of each image, without making the records, ``[N, 2]``."""
        return self._sizes[self._places]

    def digest(self) -> str:
        """A short hash of what they hold, wherever the JSON and its images lie.

        Of the images it has names, sizes and order, of the annotations all that is trained on.
        """
        columns, contents = self._contents.annotations, self._contents
        images = (self._names, self._ends, self._sizes, self._places)
        boxes = (self._classes, contents.rows, columns.boxes, columns.crowd)
        digest = hashlib.sha256()
        for array in (*images, *boxes, columns.polygon_starts, columns.number_starts, columns.numbers):
            digest.update(np.ascontiguousarray(array).tobytes())
        named = [contents.names[id_] for id_ in sorted(contents.names)]
        rest = [named, *({str(key): value for key, value in one.items()} for one in (columns.rles, columns.keypoints))]
        digest.update(json_module.dumps(rest, sort_keys=True).encode())
        return digest.hexdigest()[:16]

    def _instances(self, indices: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        columns = self._contents.annotations
        rows = zip(
            indices.tolist(),
            columns.boxes[indices].tolist(),
            self._classes[indices].tolist(),
            columns.crowd[indices].tolist(),
            strict=True,
        )
        found = []
        for index, box, category, crowd in rows:
            entry: dict[str, Any] = {"iscrowd": int(crowd), "bbox": box, "category_id": category}
            # No key where there is no mask: detectron2 takes an empty one for a mistake.
            if mask := _mask(self._contents, index):
                entry["segmentation"] = mask
            if keypoints := columns.keypoints.get(index):
                # Indices of pixels become coordinates of their middles, as in detectron2's loader.
                entry["keypoints"] = [value + 0.5 * (place % 3 != 2) for place, value in enumerate(keypoints)]
            found.append(entry)
        return found

    def _wanted(self, filter_empty: bool, min_keypoints: int) -> npt.NDArray[np.bool_]:
        """Which images are taken, ``[images]``."""
        columns, rows = self._contents.annotations, self._contents.rows
        wanted: Any = np.ones(len(self._ids), bool)
        if filter_empty:
            wanted &= np.bincount(rows[self._order][~columns.crowd[self._order]], minlength=len(wanted)) > 0
        if min_keypoints:
            visible: Any = np.zeros(len(columns), np.int64)
            for index, points in columns.keypoints.items():
                visible[index] = sum(value > 0 for value in points[2::3])
            wanted &= np.bincount(rows, visible, minlength=len(wanted)) >= min_keypoints
        return wanted


def _mask(contents: Contents, index: int) -> list[list[float]] | dict[str, Any]:
    """Polygons, or an RLE in the form that pycocotools decodes; empty where there is none."""
    rle = contents.annotations.rles.get(index)
    if rle is None:
        return [polygon.tolist() for polygon in contents.annotations.polygons(index)]
    encoded: dict[str, Any] = coco_mask.frPyObjects(rle, *rle["size"]) if isinstance(rle["counts"], list) else dict(rle)
    return encoded
