"""Several COCO JSONs as one, their classes merged by name, and one JSON as two: for training and for evaluation."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hiera_det.data.coco.check import check_coco_json
from hiera_det.data.coco.read import read_json
from hiera_det.errors import InputError
from hiera_det.files import make_folder, write_atomically

__all__ = ["Source", "merge_sources", "split_source", "write_source"]


class Source(NamedTuple):
    """A COCO JSON and the folder that its file names are relative to."""

    json: str
    images: str


def merge_sources(sources: Sequence[Source], known: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """Several JSONs as one.

    An image that several have is one image with the annotations of all. Classes of one name are one class; they are
    numbered from 1, in the order of the first JSON's ids, then of what the others add. Ids of images and annotations
    are given anew.

    Args:
        sources: the JSONs.
        known: names of classes that come first, in their order, as those of the training for an evaluation.

    Returns:
        the content of a JSON, and the folder that its file names are relative to.

    Raises:
        InputError: a JSON has errors.
    """
    for source in sources:
        check_coco_json(source.json, source.images, check_files=False, require_annotations=False)
    root = os.path.commonpath([os.path.abspath(source.images) for source in sources])
    classes: dict[str, dict[str, Any]] = {name: {"id": id_, "name": name} for id_, name in enumerate(known, start=1)}
    images: dict[str, dict[str, Any]] = {}
    annotations: list[dict[str, Any]] = []
    for source in sources:
        _add(source, root, classes, images, annotations)
    content = {"info": {"of": [list(source) for source in sources]}, "images": list(images.values())}
    return content | {"annotations": annotations, "categories": list(classes.values())}, root


def _add(
    source: Source,
    root: str,
    classes: dict[str, dict[str, Any]],
    images: dict[str, dict[str, Any]],
    annotations: list[dict[str, Any]],
) -> None:
    """Add what a JSON has; images are known by their paths."""
    data, folder = read_json(source.json), os.path.abspath(source.images)
    ids, places = {}, {}
    for category in sorted(data["categories"], key=lambda category: category["id"]):
        entry = classes.setdefault(category["name"], category | {"id": len(classes) + 1})
        ids[category["id"]] = entry["id"]
    for image in data["images"]:
        name = os.path.relpath(os.path.join(folder, image["file_name"]), root).replace(os.sep, "/")
        places[image["id"]] = images.setdefault(name, image | {"id": len(images) + 1, "file_name": name})["id"]
    for annotation in data["annotations"]:
        moved = {"image_id": places[annotation["image_id"]], "category_id": ids[annotation["category_id"]]}
        annotations.append(annotation | moved | {"id": len(annotations) + 1})


def split_source(content: Mapping[str, Any], share: float, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A JSON's images in two parts, with their annotations; classes are those of the whole in both.

    Args:
        content: of the JSON.
        share: of the images that go to the first part, above 0 and below 1; both get at least one.
        seed: of the choice, which does not hang on the order of the images.

    Returns:
        the content of both; under "info" stands how they came about.

    Raises:
        InputError: the share cannot be, or there are less than two images.
    """
    if not 0 < share < 1:
        raise InputError(f"--split {share}: give the part of the images to train on, such as 0.8")
    images = sorted(content["images"], key=lambda image: str(image["file_name"]))
    if len(images) < 2:
        raise InputError(f"--split {share}: there is {len(images)} image; two parts need two")
    order = np.random.default_rng(seed).permutation(len(images))
    count = min(max(1, round(share * len(images))), len(images) - 1)
    parts = []
    for name, chosen in (("train", order[:count]), ("val", order[count:])):
        kept = [images[place] for place in sorted(chosen.tolist())]
        ids = {image["id"] for image in kept}
        annotations = [one for one in content["annotations"] if one["image_id"] in ids]
        info = dict(content.get("info") or {}) | {"split": {"part": name, "share": share, "seed": seed}}
        parts.append({**content, "info": info, "images": kept, "annotations": annotations})
    return parts[0], parts[1]


def write_source(content: Mapping[str, Any], folder: str | Path, name: str) -> str:
    """Write a JSON under a name that its content decides, unless it is there; its path."""
    text = json.dumps(content).encode()
    path = Path(folder) / f"{name}_{hashlib.sha256(text).hexdigest()[:8]}.json"
    if not path.is_file() or path.read_bytes() != text:
        make_folder(str(folder), "the folder of the data")
        write_atomically(path, lambda file: file.write(text))
    return str(path)
