"""detectron2's records of a checked COCO JSON, made one by one of `hiera_det.data.coco.records`.

`load_records` is the list of them, for whoever asks the catalog.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.structures import BoxMode
from pycocotools.coco import COCO
from torch.utils.data import Dataset

from hiera_det.data.coco.read import no_garbage_collection
from hiera_det.data.coco.records import CocoRecords as PlainRecords
from hiera_det.data.coco.records import coco_of

__all__ = ["CocoRecords", "coco_api", "compact_records", "content_digest", "load_records", "source_of"]


def load_records(json: str, root: str) -> list[dict[str, Any]]:
    """All records, as detectron2's own loader has them."""
    with no_garbage_collection():
        records = CocoRecords(json, root)
        return [records[place] for place in range(len(records))]


def compact_records(names: Sequence[str], *, filter_empty: bool, min_keypoints: int = 0) -> CocoRecords | None:
    """The records of registered data sets; None where they are not those of one JSON that was checked here.

    Args:
        names: of the data sets.
        filter_empty: leave out images without annotations other than crowd regions.
        min_keypoints: leave out images with fewer visible keypoints.
    """
    load = DatasetCatalog[names[0]] if len(names) == 1 else None
    if not isinstance(load, partial) or load.func is not load_records:
        return None
    return CocoRecords(*load.args, filter_empty=filter_empty, min_keypoints=min_keypoints)


def content_digest(names: Sequence[str]) -> str:
    """See `CocoRecords.digest`; "" where `compact_records` has none of them."""
    records = compact_records(names, filter_empty=False)
    return records.digest() if records else ""


def coco_api(name: str) -> COCO | None:
    """Pycocotools' view of a registered data set; None where its JSON was not read here.

    It is made anew each time, since an evaluation writes into it.
    """
    load = DatasetCatalog[name]
    if isinstance(load, partial) and load.func is load_records:
        return coco_of(*load.args)
    return None if MetadataCatalog.get(name).get("json_file") else _coco_of_function(name)


def _coco_of_function(name: str) -> COCO:
    """Pycocotools' view of the records of a user's function; of copies, which detectron2 may change."""
    copies = f"{name} (copies)"
    DatasetCatalog.register(copies, lambda: copy.deepcopy(DatasetCatalog.get(name)))
    MetadataCatalog.get(copies).set(**{k: v for k, v in MetadataCatalog.get(name).as_dict().items() if k != "name"})
    try:
        api = COCO()
        api.dataset = {"annotations": []} | convert_to_coco_dict(copies)
    finally:
        DatasetCatalog.remove(copies)
        MetadataCatalog.remove(copies)
    with contextlib.redirect_stdout(io.StringIO()):
        api.createIndex()
    return api


def source_of(name: str) -> tuple[str, str]:
    """JSON and image folder of a registered data set, as the user named them; "" where there is none."""
    load, metadata = DatasetCatalog[name], MetadataCatalog.get(name)
    if isinstance(load, partial) and load.func is load_records:
        json, root = load.args
        return str(json), str(root)
    return str(metadata.get("json_file", "")), str(metadata.get("image_root", ""))


class CocoRecords(PlainRecords, Dataset[dict[str, Any]]):
    """The records in detectron2's form; see `hiera_det.data.coco.records.CocoRecords`."""

    def _instances(self, indices: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        return [one | {"bbox_mode": BoxMode.XYWH_ABS} for one in super()._instances(indices)]
