"""COCO JSONs as annotation tools export them, in small: each passes, or what is said of it leads through.

The habits are those of the tools' exporters: where ids start, which keys there are, how boxes, masks, names and sizes
are written.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hiera_det.data.coco.check import check_coco_json, check_dataset
from hiera_det.data.coco.formats import recognised
from hiera_det.data.coco.repair import repair_coco_json
from hiera_det.errors import InputError

WIDTH, HEIGHT = 40, 30
BOX = [10.0, 8.0, 12.0, 9.0]
POLYGON = [10.0, 8.0, 22.0, 8.0, 22.0, 17.0, 10.0, 17.0]


def rle() -> dict[str, Any]:
    """`BOX` in run lengths down the columns."""
    column = [8, 9, 13]
    runs = [10 * HEIGHT + 8] + [count for _ in range(11) for count in (9, 21)] + [9]
    assert sum(column) == HEIGHT
    return {"counts": [*runs, WIDTH * HEIGHT - sum(runs)], "size": [HEIGHT, WIDTH]}


def images(start: int, prefix: str = "", **fields: Any) -> list[dict[str, Any]]:
    size = {"width": WIDTH, "height": HEIGHT}
    return [{"id": start + n, "file_name": f"{prefix}{name}.jpg", **size, **fields} for n, name in enumerate("ab")]


def objects(start: int, image: int, category: int, **fields: Any) -> list[dict[str, Any]]:
    """An object in each of two images."""
    plain = {"category_id": category, "bbox": BOX, "segmentation": [POLYGON], "area": 108.0, "iscrowd": 0}
    return [{"id": start + n, "image_id": image + n, **plain, **fields} for n in range(2)]


def roboflow() -> dict[str, Any]:
    """Ids from 0, a root category with the name of the project, the JSON beside the images."""
    names = ("fruit", "none"), ("fig", "fruit"), ("nut", "fruit")
    categories = [{"id": n, "name": name, "supercategory": above} for n, (name, above) in enumerate(names)]
    entries = objects(0, 0, 1, segmentation=[]) + objects(2, 0, 2, segmentation=[], bbox=[1, 2, 5, 5], area=25)
    return {
        "info": {"year": "2024", "version": "1", "contributor": ""},
        "licenses": [{"id": 1, "url": "", "name": "CC BY 4.0"}],
        "categories": categories,
        "images": images(0, license=1, date_captured="2024-01-01T00:00:00+00:00"),
        "annotations": entries,
    }


def cvat(**crowd: Any) -> dict[str, Any]:
    """Datumaro's exporter: what is drawn with a brush is a crowd region."""
    entries = objects(1, 1, 1, attributes={"occluded": False})
    entries += objects(3, 1, 2, attributes={"occluded": False}, segmentation=rle(), iscrowd=1)
    extra = {"license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0}
    categories = [{"id": n, "name": name, "supercategory": ""} for n, name in ((1, "fig"), (2, "nut"))]
    return {"licenses": [], "info": {}, "categories": categories, "images": images(1, **extra), "annotations": entries}


def label_studio(prefix: str = "images/", **image: Any) -> dict[str, Any]:
    """All ids from 0, names from the folder above."""
    found = images(0, prefix)
    found[1].update(image)
    categories = [{"id": 0, "name": "fig"}, {"id": 1, "name": "nut"}]
    entries = objects(0, 0, 0, ignore=0) + objects(2, 0, 1, ignore=0, segmentation=[])
    return {"images": found, "categories": categories, "annotations": entries, "info": {"contributor": "Label Studio"}}


def labelme(polygon: list[float] = POLYGON) -> dict[str, Any]:
    """The script in labelme's repository; of a rectangle it writes the two corners."""
    categories = [{"supercategory": None, "id": n, "name": name} for n, name in enumerate(("_background_", "fig"))]
    found = images(0, "JPEGImages/", license=0, url=None, date_captured=None)
    entries = objects(0, 0, 1, segmentation=[polygon])
    return {"info": {}, "type": "instances", "images": found, "categories": categories, "annotations": entries}


def labelme2coco() -> dict[str, Any]:
    """The package: absolute names, no info."""
    categories = [{"id": 0, "name": "fig", "supercategory": "fig"}]
    entries = objects(1, 1, 0, bbox=[10, 8, 12, 9], area=108)
    return {"images": images(1, "/home/me/data/"), "annotations": entries, "categories": categories}


def via(**entry: Any) -> dict[str, Any]:
    """The area is the box's; points have neither box nor area."""
    info = {"description": "VIA project exported to COCO format using VGG Image Annotator", "version": "1.0"}
    found = images(1, license=0, flickr_url="a.jpg", coco_url="a.jpg", date_captured="")
    entries = objects(1, 1, 1)
    entries[1].update(entry)
    categories = [{"supercategory": "kind", "id": 1, "name": "fig"}]
    return {"info": info, "images": found, "annotations": entries, "licenses": [], "categories": categories}


def supervisely() -> dict[str, Any]:
    """Large ids of images, boxes between the outermost pixels' centres."""
    categories = [{"supercategory": "fig", "id": 1, "name": "fig"}]
    found = images(28436412, license="None", url="None", date_captured="2024-01-01T00:00:00.000Z")
    entries = objects(1, 28436412, 1, bbox=[10.0, 8.0, 11.0, 8.0], segmentation=rle(), area=108)
    return {"info": {"year": 2024}, "licenses": [], "images": found, "annotations": entries, "categories": categories}


def makesense() -> dict[str, Any]:
    """Ids of annotations from 0, of all else from 1; numbers with many places."""
    bbox, polygon = [10.000000000000002, *BOX[1:]], [10.000000000000002, *POLYGON[1:]]
    entries = objects(0, 1, 1, bbox=bbox, segmentation=[polygon])
    return {"info": {}, "images": images(1), "annotations": entries, "categories": [{"id": 1, "name": "fig"}]}


@pytest.fixture
def export(folder: Path, write: Callable[..., Path]) -> Callable[..., tuple[Path, Path]]:
    """Writes an export and its images: the JSON's path and the image folder."""

    def export(data: Any, below: str = "images") -> tuple[Path, Path]:
        (folder / below).mkdir(exist_ok=True)
        for name in "ab":
            Image.new("RGB", (WIDTH, HEIGHT)).save(folder / below / f"{name}.jpg")
        return write(data), folder / below

    return export


def told(path: Path, root: Path) -> dict[str, str]:
    """Kinds and remedies of errors and warnings."""
    return {finding.kind: finding.remedy for finding in check_dataset(path, root) if finding.severity != "note"}


@pytest.mark.parametrize(
    ("data", "counts"),
    [
        (roboflow(), {"fruit": 0, "fig": 2, "nut": 2}),
        (makesense(), {"fig": 2}),
        (via(), {"fig": 2}),
        (supervisely(), {"fig": 2}),
    ],
    ids=["roboflow", "makesense", "via", "supervisely"],
)
def test_an_export_that_is_sound_passes_without_a_warning(export: Any, data: Any, counts: dict[str, int]) -> None:
    path, root = export(data)
    assert told(path, root) == {}
    summary = check_coco_json(path, root)
    assert dict(zip(summary.class_names, summary.instance_counts, strict=True)) == counts


@pytest.mark.parametrize(
    ("data", "below"),
    [
        (label_studio(), "images"),
        (label_studio("../../label-studio/media/upload/1/"), "images"),
        (label_studio("/data/upload/1/"), "images"),
        (label_studio("/data/local-files/?d="), "images"),
        (label_studio("/data/local-files/?d=some%20where/"), "images"),
        (label_studio("https://storage.host/bucket/"), "images"),
        (label_studio("images/0a1b2c3d-"), "images"),
        (label_studio("images\\0a1b2c3d-"), "images"),
        (labelme(), "JPEGImages"),
        (labelme2coco(), "images"),
    ],
)
def test_names_of_files_lead_through_in_one_step(export: Any, folder: Path, data: Any, below: str) -> None:
    path, root = export(data, below)
    (kind, remedy), *others = told(path, root).items()
    assert others == []
    assert kind in ("image-folder-off", "image-named-otherwise")
    if kind == "image-folder-off":
        assert remedy == f"it is there from {folder}: give that as the image folder"
        root = folder
    else:
        assert "--fix" in remedy
        repair_coco_json(path, root, folder / "fixed.json")
        path = folder / "fixed.json"
    assert told(path, root) == {}
    assert sum(check_coco_json(path, root).instance_counts) == len(data["annotations"])


def test_an_address_with_a_query_is_its_file(export: Any, folder: Path) -> None:
    data = label_studio("https://bucket.host/x/")
    for image in data["images"]:
        image["file_name"] += "?X-Amz-Signature=0123/abc&d=1"
    path, root = export(data)
    assert "what follows '?'" in told(path, root)["image-named-otherwise"]
    repair_coco_json(path, root, folder / "fixed.json")
    assert told(folder / "fixed.json", root) == {}


#: Export, kind, and what the mended copy holds of the annotations.
MENDED: dict[str, tuple[Any, str, Callable[[list[dict[str, Any]]], Any], Any]] = {
    "CVAT's brush": (cvat(), "crowd-brush", lambda found: [a["iscrowd"] for a in found], [0, 0, 0, 0]),
    "only crowd regions": (
        {**cvat(), "annotations": objects(1, 1, 1, segmentation=rle(), iscrowd=1)},
        "no-annotations",
        lambda found: [a["iscrowd"] for a in found],
        [0, 0],
    ),
    "images that could not be loaded": (label_studio("", width=None, height=None), "image", len, 4),
    "images without a size": (label_studio("", width=0, height=0), "image", len, 4),
    "rectangles of labelme": (
        labelme([10, 8, 22, 17]),
        "polygon-points",
        lambda found: [a["segmentation"] for a in found],
        [[POLYGON]] * 2,
    ),
    "points of VIA": (via(bbox=[], area=[], segmentation=[[]], keypoints=[3, 4, 2]), "box", len, 1),
    "polygons without a box": (via(bbox=[]), "box", lambda found: [a["bbox"] for a in found], [BOX] * 2),
    "runs without a box": (
        via(bbox=None, segmentation=rle()),
        "box",
        lambda found: [a["bbox"] for a in found],
        [BOX] * 2,
    ),
}


@pytest.mark.parametrize(("data", "kind", "of", "holds"), MENDED.values(), ids=MENDED.keys())
def test_what_a_tool_writes_otherwise_is_mended(
    export: Any, folder: Path, data: Any, kind: str, of: Any, holds: Any
) -> None:
    path, root = export(json.loads(json.dumps(data).replace("JPEGImages/", "")))
    found = told(path, root)
    assert "--fix" in found[kind]
    repair_coco_json(path, root, folder / "fixed.json")
    assert {kind for kind in told(folder / "fixed.json", root) if kind != "mask-missing"} == set()
    assert of(json.loads((folder / "fixed.json").read_text())["annotations"]) == holds


def test_real_crowd_regions_stay(export: Any, folder: Path) -> None:
    data = cvat()
    data["annotations"][2]["attributes"] = {"is_crowd": True}
    data["annotations"][3].pop("attributes")
    path, root = export(data)
    repair_coco_json(path, root, folder / "fixed.json")
    fixed = json.loads((folder / "fixed.json").read_text())["annotations"]
    assert [entry["iscrowd"] for entry in fixed] == [0, 0, 1, 1]


@pytest.mark.parametrize("fits", [True, False])
def test_exchanged_width_and_height_are_told_from_an_exif_orientation(export: Any, folder: Path, fits: bool) -> None:
    data = makesense()
    for image in data["images"]:
        image.update(width=HEIGHT, height=WIDTH)
    if not fits:
        data["annotations"][0].update(bbox=[2, 25, 5, 14], segmentation=[[2, 25, 7, 25, 7, 39]], area=35)
    path, root = export(data)
    remedy = told(path, root)["image-size"]
    assert "no EXIF orientation is in the files" in remedy
    assert "--fix" in remedy
    repair_coco_json(path, root, folder / "fixed.json")
    fixed = json.loads((folder / "fixed.json").read_text())["images"]
    assert [(image["width"], image["height"]) for image in fixed] == [(40, 30) if fits else (30, 40), (40, 30)]
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in "ab":
        Image.fromarray(np.zeros((WIDTH, HEIGHT, 3), np.uint8)).save(root / f"{name}.jpg", exif=exif)
    assert "remove the EXIF orientation" in told(path, root)["image-size"]
    repair_coco_json(path, root, folder / "again.json")
    fixed = json.loads((folder / "again.json").read_text())["images"]
    assert {(image["width"], image["height"]) for image in fixed} == {(30, 40)}


def test_category_ids_that_count_from_another_number_are_not_left_out(export: Any, folder: Path) -> None:
    data = makesense()
    data["annotations"][0]["category_id"] = 0
    data["annotations"][1]["category_id"] = 1
    data["categories"].append({"id": 2, "name": "nut"})
    path, root = export(data)
    with pytest.raises(InputError, match="category ids 0 to 1 in 'annotations', 1 to 2 in 'categories'"):
        repair_coco_json(path, root, folder / "fixed.json")


def test_an_export_of_via_without_categories_says_why(export: Any) -> None:
    path, root = export({**via(), "annotations": [], "categories": []})
    assert "VIA exports attributes of type dropdown, radio or checkbox only" in told(path, root)["lists"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([{"id": 1, "annotations": [{"result": []}], "data": {"image": "/data/upload/1/a.jpg"}}], "Label Studio's own"),
        ({"description": "", "tags": [], "size": {"height": 3, "width": 4}, "objects": []}, "Supervisely's own"),
        ({"info": {}, "categories": {"label": {"labels": []}}, "items": []}, "Datumaro's own"),
        ({"a.jpg1234": {"filename": "a.jpg", "regions": [], "size": 1234}}, "VGG Image Annotator"),
        ("<?xml version='1.0'?>\n<annotations>\n  <version>1.1</version>", "CVAT's own XML: export the task as COCO"),
        ("<annotation><folder>x</folder>", "a VOC annotation"),
    ],
)
def test_a_tool_s_own_format_is_named_with_the_way_out(content: Any, says: str, tmp_path: Path) -> None:
    assert says in recognised(tmp_path / "a.json", content)
