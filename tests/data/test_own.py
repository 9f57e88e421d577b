"""Own data as people give it: several JSONs, one to split, folders of other layouts (hiera_det/data/own.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hiera_det.data.coco.check import check_coco_json
from hiera_det.data.coco.read import read_json
from hiera_det.data.own import settled_data
from hiera_det.errors import InputError

NONE: dict[str, list[str]] = {"train_json": [], "train_images": [], "val_json": [], "val_images": []}


def write_json(folder: Path, name: str, images: list[str], classes: dict[int, str], part: str = "images") -> list[str]:
    """A JSON with one object of the first class on each image, which are made; its path and that of the images."""
    entries, annotations = [], []
    for number, file in enumerate(images, start=7):
        path = folder / part / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 24)).save(path)
        entries.append({"id": number, "file_name": file, "width": 32, "height": 24})
        box = {"bbox": [1, 2, 10, 8], "area": 80, "iscrowd": 0, "segmentation": [[1, 2, 11, 2, 11, 10, 1, 10]]}
        annotations.append(box | {"id": number, "image_id": number, "category_id": next(iter(classes))})
    categories = [{"id": id_, "name": class_name} for id_, class_name in classes.items()]
    content = {"info": {}, "images": entries, "annotations": annotations, "categories": categories}
    (folder / name).write_text(json.dumps(content))
    return [str(folder / name), str(folder / part)]


def settle(tmp_path: Path, told: list[str], folder: str = "", share: float | None = None, **paths: list[str]) -> Any:
    return settled_data(NONE | paths, folder, share, 0, lambda: str(tmp_path / "made"), told.append)


def named_objects(json_path: str, root: str) -> list[tuple[str, str]]:
    """File names and classes of the objects of a JSON that a check finds sound."""
    check_coco_json(json_path, root)
    data = read_json(json_path)
    files = {image["id"]: str(Path(root, image["file_name"]).resolve()) for image in data["images"]}
    names = {category["id"]: category["name"] for category in data["categories"]}
    return sorted((files[one["image_id"]], names[one["category_id"]]) for one in data["annotations"])


def test_one_json_of_each_is_left_as_it_is(tmp_path: Path) -> None:
    train = write_json(tmp_path, "a.json", ["1.png"], {3: "fig"})
    found = settle(tmp_path, [], train_json=train[:1], train_images=train[1:])
    assert found == {"train_json": train[0], "train_images": train[1], "val_json": None, "val_images": None}


def test_several_are_merged_by_the_names_of_their_classes_and_the_paths_of_their_images(tmp_path: Path) -> None:
    told: list[str] = []
    first = write_json(tmp_path, "a.json", ["1.png", "2.png"], {5: "fig", 9: "date"}, "one")
    second = write_json(tmp_path, "b.json", ["1.png"], {1: "plum", 2: "fig"}, "two")
    again = write_json(tmp_path, "c.json", ["1.png"], {4: "date"}, "one")
    val = write_json(tmp_path, "v.json", ["v.png"], {1: "plum"}, "val")
    jsons, images = zip(first, second, again, strict=True)
    given = {"train_json": [*jsons], "train_images": [*images], "val_json": val[:1], "val_images": val[1:]}
    found = settle(tmp_path, told, **given)
    one, two = tmp_path / "one", tmp_path / "two"
    objects = [(one / "1.png", "date"), (one / "1.png", "fig"), (one / "2.png", "fig"), (two / "1.png", "plum")]
    assert named_objects(found["train_json"], found["train_images"]) == [(str(path), name) for path, name in objects]
    names = [[c["name"] for c in read_json(found[key])["categories"]] for key in ("train_json", "val_json")]
    assert names == [["fig", "date", "plum"]] * 2
    assert told == ["train: 3 JSONs merged, 3 images of 3 classes"]
    assert settle(tmp_path, [], **given) == found  # named by their content


def test_a_json_is_split_by_image_the_same_way_for_a_seed(tmp_path: Path) -> None:
    told: list[str] = []
    train = write_json(tmp_path, "a.json", [f"{number}.png" for number in range(10)], {3: "fig", 8: "date"})
    given = {"train_json": train[:1], "train_images": train[1:]}
    found = settle(tmp_path, told, share=0.8, **given)
    parts = [read_json(found[f"{part}_json"]) for part in ("train", "val")]
    files = [{image["file_name"] for image in part["images"]} for part in parts]
    assert [len(part) for part in files] == [8, 2]
    assert not files[0] & files[1]
    assert [part["categories"] for part in parts] == [read_json(train[0])["categories"]] * 2
    assert parts[1]["info"]["split"] == {"part": "val", "share": 0.8, "seed": 0}
    assert told[0].startswith("split by images, seed 0: 8 to train on, 2 to evaluate on; written as ")
    assert settle(tmp_path, [], share=0.8, **given) == found
    assert settled_data(NONE | given, "", 0.8, 1, lambda: str(tmp_path), told.append) != found


def write_yolo(folder: Path, *parts: str) -> None:
    for part in parts:
        for kind in ("images", "labels"):
            (folder / part / kind).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (40, 20)).save(folder / part / "images" / f"{number}.jpg")
            (folder / part / "labels" / f"{number}.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    (folder / "data.yaml").write_text("names: [fig, date]\ntrain: ../train/images\nval: ../valid/images\n")


def test_a_folder_of_yolos_layout_is_converted_in_both_parts(tmp_path: Path) -> None:
    told: list[str] = []
    write_yolo(tmp_path / "set", "train", "valid")
    found = settle(tmp_path, told, str(tmp_path / "set"))
    for part, folder in (("train", "train"), ("val", "valid")):
        objects = named_objects(found[f"{part}_json"], found[f"{part}_images"])
        assert objects == [(str(tmp_path / "set" / folder / "images" / f"{n}.jpg"), "date") for n in range(3)]
    assert told == [f"{tmp_path / 'set'}: recognised as YOLO's, converted"]


def test_roboflows_export_is_taken_where_it_lies(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        write_json(tmp_path / "set" / part, "_annotations.coco.json", ["1.png"], {1: "fig"}, ".")
    found = settle(tmp_path, [], str(tmp_path / "set"))
    assert found["train_json"] == str(tmp_path / "set" / "train" / "_annotations.coco.json")
    assert found["val_images"] == str(tmp_path / "set" / "valid")


@pytest.mark.parametrize("kind", ["voc", "labelme"])
def test_a_folder_without_a_part_to_evaluate_on_is_split(kind: str, tmp_path: Path) -> None:
    told: list[str] = []
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(5):
        Image.new("RGB", (40, 20)).save(folder / f"{number}.jpg")
        if kind == "voc":
            box = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
            text = f"<annotation><filename>{number}.jpg</filename><object><name>fig</name>{box}</object></annotation>"
            (folder / f"{number}.xml").write_text(text)
        else:
            shape = {"label": "fig", "points": [[2, 2], [9, 9]], "shape_type": "rectangle"}
            entry = {"imagePath": f"{number}.jpg", "imageWidth": 40, "imageHeight": 20, "shapes": [shape]}
            (folder / f"{number}.json").write_text(json.dumps(entry))
    found = settle(tmp_path, told, str(folder))
    counts = [len(named_objects(found[f"{part}_json"], found[f"{part}_images"])) for part in ("train", "val")]
    assert counts == [4, 1]
    assert told[1] == "it has no part to evaluate on: --split 0.8"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"folder": "set", "train_json": ["a.json"], "train_images": ["."]}, "--data set: names all of the data"),
        ({"share": 0.8}, "--split 0.8: takes --train-json apart"),
        ({"train_json": ["a", "b", "c"], "train_images": ["x", "y"]}, "--train-images: 2 folders for 3 JSONs"),
        ({"train_json": ["a", "b"]}, "--train-json a needs --train-images"),
        ({"folder": "set"}, "set: no such folder"),
    ],
)
def test_what_does_not_go_together_is_refused(values: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        settle(tmp_path, [], **values)
