"""YOLO, VOC and labelme as COCO: boxes and outlines to the pixel, classes in order, faults by file and line."""

from __future__ import annotations

import base64
import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from hiera_det.cli.main import COMMANDS
from hiera_det.data.coco.check import check_coco_json
from hiera_det.data.convert.detect import convert_dataset, detect_format
from hiera_det.errors import InputError

WIDTH, HEIGHT = 40, 20


def image(path: Path, exif: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = Image.Exif()
    if exif:
        data[0x0112] = exif
    Image.new("RGB", (WIDTH, HEIGHT)).save(path, exif=data)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    """Two training images, one without labels, and one of validation; as Ultralytics lays it out."""
    root = tmp_path / "yolo"
    write(root / "data.yaml", "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: fig\n  1: date\n")
    for name in ("train/a.jpg", "train/b.jpg", "val/c.jpg"):
        image(root / "images" / name)
    write(root / "labels/train/a.txt", "1 0.5 0.5 0.25 0.5\n0 0.1 0.2 0.5 0.2 0.5 0.8\n\n")
    write(root / "labels/val/c.txt", "0 0.5 0.5 1 1\n")
    return root


XML = """<annotation><folder>x</folder><filename>{name}</filename>
<size><width>40</width><height>20</height><depth>3</depth></size>{objects}</annotation>"""
OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"""


def voc_object(name: str, *corners: float, difficult: int = 0) -> str:
    return OBJECT.format(*corners, name=name, difficult=difficult)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "voc"
    for stem in ("a", "b"):
        image(root / "JPEGImages" / f"{stem}.jpg")
    objects = voc_object("fig", 1, 1, 40, 20) + voc_object("date", 11, 6, 20, 15, difficult=1)
    write(root / "Annotations/a.xml", XML.format(name="a.jpg", objects=objects))
    write(root / "Annotations/b.xml", XML.format(name="", objects=voc_object("nut", 2, 2, 3, 3)))
    write(root / "ImageSets/Main/val.txt", "b\n")
    return root


@pytest.fixture
def labelme(tmp_path: Path) -> Path:
    root = tmp_path / "labelme"
    image(root / "a.jpg")
    image(root / "sub" / "b.jpg")
    shapes: list[dict[str, Any]] = [
        {"label": "fig", "points": [[1, 1], [9, 1], [9, 5], [1, 5]], "shape_type": "polygon", "group_id": None},
        {"label": "date", "points": [[20, 10], [10, 2]], "shape_type": "rectangle", "group_id": None},
        {"label": "fig", "points": [[30, 10], [34, 10]], "shape_type": "circle", "group_id": None},
        {"label": "nut", "points": [[1, 10], [3, 10], [3, 12]], "shape_type": "polygon", "group_id": 1},
        {"label": "nut", "points": [[5, 10], [7, 10], [7, 12]], "shape_type": "polygon", "group_id": 1},
        {"label": "fig", "points": [[5, 10]], "shape_type": "point"},
    ]
    write(root / "a.json", json.dumps({"shapes": shapes, "imagePath": "..\\data\\a.jpg", "imageData": None}))
    write(root / "sub" / "b.json", json.dumps({"shapes": [], "imagePath": "b.jpg"}))
    write(root / "coco.json", json.dumps({"images": []}))
    return root


def convert(source: Path, **options: Any) -> tuple[dict[str, Any], str]:
    """The JSON, which passes the check, and the image folder."""
    target = source.parent / f"{source.name}_{len(list(source.parent.iterdir()))}.json"
    made = convert_dataset(str(source), str(target), **options)
    check_coco_json(target, made.image_root, require_annotations=False)
    return json.loads(target.read_text()), made.image_root


def boxes(data: dict[str, Any]) -> list[tuple[str, list[float]]]:
    names = {category["id"]: category["name"] for category in data["categories"]}
    return [(names[entry["category_id"]], entry["bbox"]) for entry in data["annotations"]]


def test_yolo_boxes_and_polygons(yolo: Path) -> None:
    data, root = convert(yolo)
    assert root == str(yolo / "images" / "train")
    assert [entry["file_name"] for entry in data["images"]] == ["a.jpg", "b.jpg"]
    assert boxes(data) == [("date", [15, 5, 10, 10]), ("fig", [4, 4, 16, 12])]
    assert data["annotations"][1]["segmentation"] == [[4, 4, 20, 4, 20, 16]]
    assert [entry["area"] for entry in data["annotations"]] == [100, 96]
    assert [category["name"] for category in data["categories"]] == ["fig", "date"]
    val, _ = convert(yolo, split="val")
    assert boxes(val) == [("fig", [0, 0, 40, 20])]


@pytest.mark.parametrize(
    ("settings", "layout"),
    [
        ("train: ../train/images\nval: ../valid/images\nnames: ['fig', 'date']\n", "roboflow"),
        ("train: train.txt\nnames: ['fig', 'date']\n", "list"),
        (None, "classes.txt"),
    ],
)
def test_yolo_layouts(yolo: Path, settings: str | None, layout: str) -> None:
    (yolo / "data.yaml").unlink()
    if settings:
        write(yolo / "data.yaml", settings)
    else:
        write(yolo / "classes.txt", "fig\ndate\n")
    if layout == "roboflow":
        (yolo / "train").mkdir()
        (yolo / "images" / "train").rename(yolo / "train" / "images")
        (yolo / "labels" / "train").rename(yolo / "train" / "labels")
    elif layout == "list":
        write(yolo / "train.txt", "images/train/a.jpg\n./images/train/b.jpg\n")
    assert [name for name, _ in boxes(convert(yolo)[0])] == ["date", "fig"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("2 0.5 0.5 1 1", r"a\.txt:1: class 2, but there are 2 names"),
        ("0 0.5 0.5 1", r"a\.txt:1: 3 numbers are neither"),
        ("0 20 10 8 4", r"a\.txt:1: coordinates must be fractions"),
        ("fig 0.5 0.5 1 1", r"a\.txt:1: 'fig 0.5 0.5 1 1' is not a class number"),
        ("0 nan 0.5 1 1", r"a\.txt:1: coordinates must be fractions"),
        ("9" * 5000 + " 0.5 0.5 1 1", r"a\.txt:1: .* is not a class number"),
    ],
)
def test_yolo_faults_are_named_by_file_and_line(yolo: Path, line: str, says: str) -> None:
    write(yolo / "labels/train/a.txt", line + "\n")
    with pytest.raises(InputError, match=says):
        convert(yolo)
    assert not list(yolo.parent.glob("*.json"))


def test_an_upright_size_is_what_fractions_are_of(yolo: Path) -> None:
    image(yolo / "images/train/a.jpg", exif=6)
    write(yolo / "labels/train/a.txt", "0 0.5 0.5 1 1\n")
    data, _ = convert(yolo)
    assert boxes(data) == [("fig", [0, 0, HEIGHT, WIDTH])]


def test_voc_counts_pixels_from_1_and_its_boxes_hold_their_last_pixel(voc: Path) -> None:
    data, root = convert(voc)
    assert root == str(voc / "JPEGImages")
    assert boxes(data) == [("fig", [0, 0, 40, 20]), ("date", [10, 5, 10, 10]), ("nut", [1, 1, 2, 2])]
    assert [entry["iscrowd"] for entry in data["annotations"]] == [0, 1, 0]


def test_voc_that_counts_from_0_is_taken_so(voc: Path) -> None:
    write(voc / "Annotations/b.xml", XML.format(name="b.jpg", objects=voc_object("nut", 0, 0, 40, 20)))
    data, _ = convert(voc)
    assert boxes(data) == [("fig", [1, 1, 39, 19]), ("date", [11, 6, 9, 9]), ("nut", [0, 0, 40, 20])]


def test_voc_split_has_the_classes_of_all(voc: Path) -> None:
    data, _ = convert(voc, split="val")
    assert [category["name"] for category in data["categories"]] == ["date", "fig", "nut"]
    assert boxes(data) == [("nut", [1, 1, 2, 2])]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<annotation>", "a.xml: not valid XML"),
        ("<annotations><image/></annotations>", "a.xml: begins with <annotations>, .* export COCO or Pascal VOC"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><annotation/>', "a.xml: declares a document type"),
        (XML.format(name="a.jpg", objects=voc_object("fig", "x", 1, 2, 3)), "a.xml: the box of 'fig'"),
        (XML.format(name="a.jpg", objects=voc_object("fig", 9, 1, 2, 3)), "a.xml: an object needs a name and a box"),
        (XML.format(name="a.jpg", objects=voc_object("fig", "nan", 1, 2, 3)), "a.xml: an object needs"),
        (XML.format(name="a.jpg", objects="<object><name>fig</name></object>"), "a.xml: the box of 'fig'"),
    ],
)
def test_voc_faults_are_named_by_file(voc: Path, text: str, says: str) -> None:
    write(voc / "Annotations/a.xml", text)
    with pytest.raises(InputError, match=says):
        convert(voc)


def test_an_image_of_another_size_than_was_labelled_is_refused(voc: Path, labelme: Path) -> None:
    Image.new("RGB", (WIDTH // 2, HEIGHT // 2)).save(voc / "JPEGImages/b.jpg")
    with pytest.raises(InputError, match=r"b\.xml: its image has 40x20 pixels there, but .*b\.jpg has 20x10"):
        convert(voc)
    unknown = XML.replace("<width>40</width><height>20</height>", "<width>0</width><height/>")
    write(voc / "Annotations/b.xml", unknown.format(name="b.jpg", objects=""))
    assert len(convert(voc)[0]["images"]) == 2
    entry = json.loads((labelme / "a.json").read_text())
    for height, width in ((HEIGHT, WIDTH), (None, None)):
        write(labelme / "a.json", json.dumps({**entry, "imageHeight": height, "imageWidth": width}))
        assert len(convert(labelme)[0]["images"]) == 2
    write(labelme / "a.json", json.dumps({**entry, "imageHeight": 20, "imageWidth": 80}))
    with pytest.raises(InputError, match=r"a\.json: its image has 80x20 pixels there, but .*a\.jpg has 40x20"):
        convert(labelme)


@pytest.mark.parametrize("classes", [None, "__ignore__\n_background_\nfig\n"])
def test_labelme_words_for_no_object_are_left_out_and_said(labelme: Path, classes: str | None) -> None:
    square = {"points": [[1, 1], [9, 1], [9, 5], [1, 5]], "shape_type": "polygon"}
    shapes = [{"label": label, **square} for label in ("fig", "__ignore__", "_background_", "__ignore__")]
    write(labelme / "a.json", json.dumps({"shapes": shapes, "imagePath": "a.jpg"}))
    if classes:
        write(labelme.parent / "labels.txt", classes)
    given = str(labelme.parent / "labels.txt") if classes else None
    made = convert_dataset(str(labelme), str(labelme.parent / "out.json"), classes=given)
    data = json.loads((labelme.parent / "out.json").read_text())
    assert [category["name"] for category in data["categories"]] == ["fig"]
    assert len(data["annotations"]) == 1
    assert {what.split()[0]: count for what, count in made.notes.items()} == {"__ignore__": 2, "_background_": 1}


def test_yolo_images_without_any_label_are_refused(yolo: Path) -> None:
    (yolo / "labels").rename(yolo / "Labels_of_old")
    with pytest.raises(InputError, match="none of the 2 images of 'train' has a label file") as caught:
        convert(yolo)
    assert "\n" not in str(caught.value)


def test_yolo_that_does_not_fit_together_is_said(yolo: Path) -> None:
    target = yolo.parent / "out.json"
    assert list(convert_dataset(str(yolo), str(target)).notes) == ["image without a label file: no objects"]
    write(yolo / "labels/train/lost.txt", "0 0.5 0.5 1 1\n")
    write(yolo / "labels/train/classes.txt", "fig\ndate\n")
    write(yolo / "data.yaml", (yolo / "data.yaml").read_text() + "nc: 3\n")
    notes = convert_dataset(str(yolo), str(target)).notes
    assert notes["label file without an image: left out"] == 1
    assert notes["nc is 3 where there are 2 names; the names count"] == 1


def test_labelme_shapes(labelme: Path) -> None:
    data, _ = convert(labelme)
    assert [entry["file_name"] for entry in data["images"]] == ["a.jpg", "sub/b.jpg"]
    found = boxes(data)
    assert found[:2] == [("fig", [1, 1, 8, 4]), ("date", [10, 2, 10, 8])]
    assert found[3] == ("nut", [1, 10, 6, 2])
    assert len(data["annotations"]) == 4
    assert data["annotations"][2]["area"] == pytest.approx(3.14159 * 16, rel=0.02)
    assert len(data["annotations"][3]["segmentation"]) == 2


def test_labelme_masks_and_turned_boxes_are_objects(labelme: Path) -> None:
    bitmap = np.zeros((3, 5), np.uint8)
    bitmap[0, 1:], bitmap[2, 4] = 1, 1
    file = io.BytesIO()
    Image.fromarray(bitmap * 255).save(file, "PNG")
    mask = {"label": "fig", "points": [[30, 4], [34, 6]], "shape_type": "mask"}
    mask["mask"] = base64.b64encode(file.getvalue()).decode()
    turned = {"label": "fig", "points": [[4, 1], [7, 4], [4, 7], [1, 4]], "shape_type": "rotation"}
    line = {"label": "fig", "points": [[4, 1], [7, 4], [4, 7]], "shape_type": "linestrip"}
    entry = {"shapes": [mask, turned, line], "imagePath": "a.jpg"}
    write(labelme / "a.json", json.dumps(entry))
    data, _ = convert(labelme)
    assert boxes(data) == [("fig", [31, 4, 4, 3]), ("fig", [1, 1, 6, 6])]
    encoded = coco_mask.frPyObjects(data["annotations"][0]["segmentation"], HEIGHT, WIDTH)
    np.testing.assert_array_equal(coco_mask.decode(encoded)[4:7, 30:35], bitmap)
    assert data["annotations"][0]["area"] == bitmap.sum() == coco_mask.area(encoded)
    for wrong in ({"mask": "no PNG"}, {"points": [[36, 4], [40, 6]]}, {"points": [[1, 2]]}):
        write(labelme / "a.json", json.dumps({"shapes": [mask | wrong], "imagePath": "a.jpg"}))
        with pytest.raises(InputError, match=r"a\.json: the mask of 'fig' cannot be read"):
            convert(labelme)


@pytest.mark.parametrize("points", ["1 1 0.5 0.5 0.2 0.3 0.5 0.8", "0.1 0.2 2 0.3 0.4 1"])
def test_yolo_keypoints_are_no_polygons(yolo: Path, points: str) -> None:
    settings = (yolo / "data.yaml").read_text()
    write(yolo / "data.yaml", settings + f"kpt_shape: [2, {len(points.split()) // 2}]\n")
    write(yolo / "labels/train/a.txt", f"0 0.5 0.5 0.25 0.5 {points}\n")
    data, _ = convert(yolo)
    assert boxes(data) == [("fig", [15, 5, 10, 10])]
    assert not data["annotations"][0].get("segmentation")


def test_yolo_names_that_yaml_takes_for_no_text_are_refused(yolo: Path) -> None:
    write(yolo / "data.yaml", "train: images/train\nnames: [yes, no]\n")
    with pytest.raises(InputError, match=r"data\.yaml: YAML reads a name of names as True: write .* in quotes"):
        convert(yolo)


def test_aliases_of_aliases_are_refused_before_they_are_written_out(yolo: Path) -> None:
    names = "".join(
        f"{name}: &{name} [{', '.join([f'*{one}'] * 9)}]\n" for one, name in itertools.pairwise("abcdefghij")
    )
    write(yolo / "data.yaml", f"a: &a [x]\n{names}names: *j\ntrain: images/train\n")
    with pytest.raises(InputError, match=r"data\.yaml: has aliases"):
        convert(yolo)
    write(yolo / "data.yaml", "names: " + "[" * 5000)
    with pytest.raises(InputError, match=r"data\.yaml: lists or keys too deep"):
        convert(yolo)


def test_a_small_mask_of_too_many_pixels_is_refused(labelme: Path) -> None:
    buffer = io.BytesIO()
    Image.new("1", (20000, 20000)).save(buffer, format="PNG")
    mask = base64.b64encode(buffer.getvalue()).decode()
    shape = {"label": "fig", "shape_type": "mask", "points": [[0, 0], [9, 9]], "mask": mask}
    write(labelme / "a.json", json.dumps({"shapes": [shape], "imagePath": "a.jpg"}))
    with pytest.raises(InputError, match=r"a\.json: the mask of 'fig' cannot be read"):
        convert(labelme)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ({"points": [[1, 1], [2, 2], [3, 1]]}, "a.json: a shape has no label"),
        ({"label": "fig", "points": [[1, 1], [2]]}, "a.json: the points of 'fig'"),
        ({"label": "fig", "points": [[1, 1], [2, 1e400], [1, 2]]}, "a.json: the points of 'fig'"),
    ],
)
def test_labelme_faults_are_named_by_file(labelme: Path, shape: dict[str, Any], says: str) -> None:
    write(labelme / "a.json", json.dumps({"shapes": [shape], "imagePath": "a.jpg"}))
    with pytest.raises(InputError, match=says):
        convert(labelme)


def test_classes_of_another_json_keep_their_order_and_must_be_all(labelme: Path, tmp_path: Path) -> None:
    write(
        tmp_path / "train.json", json.dumps({"categories": [{"id": i, "name": n} for i, n in ((2, "fig"), (1, "nut"))]})
    )
    with pytest.raises(InputError, match="lacks the class 'date'"):
        convert(labelme, classes=str(tmp_path / "train.json"))
    write(tmp_path / "names.txt", "nut\nfig\ndate\n")
    data, _ = convert(labelme, classes=str(tmp_path / "names.txt"))
    assert [category["name"] for category in data["categories"]] == ["nut", "fig", "date"]


def test_formats_are_recognised(yolo: Path, voc: Path, labelme: Path, tmp_path: Path) -> None:
    assert [detect_format(str(path)) for path in (yolo, voc, labelme)] == ["yolo", "voc", "labelme"]
    assert detect_format(str(yolo / "data.yaml")) == "yolo"
    (yolo / "data.yaml").unlink()
    assert detect_format(str(yolo)) == "yolo"
    write(tmp_path / "apart/labels/a.json", "{}")
    assert detect_format(str(tmp_path / "apart")) == "labelme"
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="is no data set of YOLO"):
        detect_format(str(tmp_path / "none"))


Given = Callable[[Path, Path, Path], Path]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (lambda yolo, voc, labelme: yolo, "this is a YOLO data set"),
        (lambda yolo, voc, labelme: yolo / "data.yaml", "this is a YOLO data.yaml"),
        (lambda yolo, voc, labelme: yolo / "labels/train/a.txt", "this is a YOLO label file"),
        (lambda yolo, voc, labelme: voc, "this is a VOC data set"),
        (lambda yolo, voc, labelme: voc / "Annotations/a.xml", r"this is a VOC annotation \(XML\)"),
        (lambda yolo, voc, labelme: labelme / "a.json", "this is a labelme file of one image"),
    ],
)
def test_another_format_given_as_a_coco_json_is_recognised(
    yolo: Path, voc: Path, labelme: Path, given: Given, says: str
) -> None:
    """And the command that is named is there."""
    with pytest.raises(InputError, match=f"{says}: convert it with `hiera-det convert-dataset`"):
        check_coco_json(given(yolo, voc, labelme), yolo)
    assert "convert-dataset" in COMMANDS
