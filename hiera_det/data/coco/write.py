"""A checked JSON in the forms that others want: pycocotools' dictionaries, and a file of them."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

from hiera_det.data.coco.read import read_coco
from hiera_det.data.coco.schema import Contents, Floats, StrPath
from hiera_det.errors import InputError
from hiera_det.files import write_atomically

__all__ = ["completed_copy", "dataset_of", "private_folder"]


def dataset_of(contents: Contents) -> dict[str, Any]:
    """What pycocotools calls a data set, without the gaps that it stumbles over.

    Areas and ``iscrowd`` are filled in, annotations are numbered from 1 when one has id 0, which pycocotools takes for
    "not matched", crowd regions without a mask get their box's, and annotations in which there is nothing to find are
    left out.
    """
    categories = [{"id": id_, "name": name, "supercategory": ""} for id_, name in contents.names.items()]
    return {
        "info": {},
        "images": list(contents.images.values()),
        "categories": categories,
        "annotations": _annotations(contents),
    }


def _annotations(contents: Contents) -> list[dict[str, Any]]:
    columns = contents.annotations
    renumber = bool((columns.ids == 0).any())
    has_masks = bool(columns.has_mask.any())
    unlabelled = [0.0] * max(map(len, columns.keypoints.values()), default=0)
    empty = columns.is_empty
    rows = zip(
        columns.ids.tolist(),
        columns.image_ids,
        columns.category_ids.tolist(),
        columns.boxes.tolist(),
        contents.areas.tolist(),
        columns.crowd.tolist(),
        strict=True,
    )
    found = []
    for index, (id_, image_id, category_id, box, area, crowd) in enumerate(rows):
        if empty[index]:
            continue  # would count as an object that nobody found
        entry = {"id": index + 1 if renumber else id_, "image_id": image_id, "category_id": category_id, "bbox": box}
        entry |= {"area": area, "iscrowd": int(crowd)}
        mask = columns.rles.get(index) or [polygon.tolist() for polygon in columns.polygons(index)]
        if not mask and crowd and has_masks:  # evaluation of masks stops with an IndexError otherwise
            mask = [box_polygon(box)]
        if mask:
            entry["segmentation"] = mask
        if points := columns.keypoints.get(index, unlabelled):  # pycocotools wants them of all, or of none
            entry |= {"keypoints": points, "num_keypoints": sum(visible > 0 for visible in points[2::3])}
        found.append(entry)
    return found


def box_polygon(box: list[float] | Floats) -> list[float]:
    """The outline of an XYWH box as x1, y1, x2, y2, ..."""
    x, y, width, height = (float(value) for value in box)
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def completed_copy(json_path: StrPath) -> str:
    """Path of a completed copy of a checked JSON, for evaluators that read files.

    It is in a folder of this user's alone, named by the hash of its content, and written anew if what is there is
    something else.

    Raises:
        InputError: the JSON has errors, or the copy cannot be written.
    """
    contents = read_coco(json_path).contents
    if contents is None:
        raise InputError(f"{json_path}: only a JSON that was checked and has no error can be completed")
    content = json.dumps(dataset_of(contents)).encode()
    target = private_folder("coco") / f"{hashlib.sha256(content).hexdigest()}.json"
    if target.is_symlink() or not target.is_file() or target.read_bytes() != content:
        target.unlink(missing_ok=True)
        write_atomically(target, lambda file: file.write(content), durable=False)
    return str(target)


def private_folder(name: str) -> Path:
    """A folder of this user's alone: in the cache (``XDG_CACHE_HOME``), or a temporary one where that cannot be used.

    What another user could have put there is not taken: neither a link nor a folder that is not ours.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(cache) / "hiera_det" / name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()  # of the folder itself and not of what a link there leads to
        if not stat.S_ISLNK(status.st_mode) and (not hasattr(os, "getuid") or status.st_uid == os.getuid()):
            folder.chmod(0o700)
            with tempfile.TemporaryFile(dir=folder):
                return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="hiera_det_"))
