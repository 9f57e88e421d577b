"""`check_coco_json` on sound data, on each kind of mistake, and on what pycocotools needs added."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_data import HEIGHT, WIDTH, annotation, sound
from PIL import Image

from hiera_det.data.coco.check import check_coco_json, check_dataset
from hiera_det.data.coco.compare import compare_splits, same_classes
from hiera_det.data.coco.write import completed_copy
from hiera_det.errors import InputError


def write(folder: Path, data: Any, name: str = "set.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def check(folder: Path, data: Any, **kwargs: Any):
    return check_coco_json(write(folder, data), folder / "images", **kwargs)


def refused(folder: Path, data: Any, **kwargs: Any) -> str:
    with pytest.raises(InputError) as caught:
        check(folder, data, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_summary_of_sound_data(folder: Path) -> None:
    summary = check(folder, sound())
    assert summary.class_names == ("date", "fig", "nut")
    assert summary.category_ids == (3, 7, 9)
    assert summary.instance_counts == (2, 1, 0)
    assert (summary.num_images, summary.num_annotations, summary.num_negatives) == (2, 3, 1)
    assert (summary.mask_format, summary.num_without_mask, summary.gaps) == ("polygon", 0, ())
    assert any("1 of 2 images have no annotation" in note for note in summary.notes)
    assert any("'nut'" in note for note in summary.notes)


def _set(*keys: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    """A change of the entry that ``keys`` lead to."""

    def change(data: dict[str, Any]) -> None:
        entry = data
        for key in keys[:-1]:
            entry = entry[key]
        entry[keys[-1]] = to

    return change


def _drop(*keys: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        entry = data
        for key in keys[:-1]:
            entry = entry[key]
        del entry[keys[-1]]

    return change


RLE = {"size": [HEIGHT, WIDTH], "counts": [20, 8, WIDTH * HEIGHT - 28]}

BAD = {
    "no images key": (_drop("images"), "key 'images' is missing"),
    "no annotations key": (_drop("annotations"), "key 'annotations' is missing"),
    "no categories key": (_drop("categories"), "key 'categories' is missing"),
    "annotations null": (_set("annotations", to=None), "'annotations' is null, not a list"),
    "image not an object": (_set("images", 0, to=5), r"images\[0\] is a number"),
    "no images": (_set("images", to=[]), "'images' is empty"),
    "no categories": (_set("categories", to=[]), "'categories' is empty"),
    "no annotations": (_set("annotations", to=[]), "no annotations"),
    "all crowd": (_set("annotations", to=[annotation(1, iscrowd=1)]), "only crowd"),
    "category without name": (_drop("categories", 1, "name"), r"categories\[1\]: key 'name' is missing"),
    "category id text": (_set("categories", 1, "id", to="3"), r"categories\[1\]: id '3' must be an integer"),
    "category id twice": (_set("categories", 1, "id", to=7), "category ids occur more than once: 7"),
    "category name twice": (_set("categories", 1, "name", to="fig"), "category names occur more than once: 'fig'"),
    "category name empty": (_set("categories", 1, "name", to=" "), "category 3: name"),
    "image without width": (_drop("images", 0, "width"), r"images\[0\]: key 'width' is missing"),
    "height 0": (_set("images", 0, "height", to=0), "'a.png'.*height 0 must be a positive integer"),
    "width null": (_set("images", 1, "width", to=None), "'b.png'.*width None must be"),
    "file_name null": (_set("images", 1, "file_name", to=None), "image 2: file_name None"),
    "image ids mixed": (_set("images", 1, "id", to="2"), "image ids are mixed"),
    "image id list": (_set("images", 1, "id", to=[2]), r"images\[1\]: id \[2\] must be"),
    "image id twice": (_set("images", 1, "id", to=1), "image ids occur more than once: 1"),
    "image missing": (_set("images", 1, "file_name", to="c.png"), "1 of 2 images are not in .*images: 'c.png'"),
    "image prefixed": (_set("images", 1, "file_name", to="x/b.png"), r"'x/b.png' is there as 'b.png' \(leading"),
    "one image from parent": (_set("images", 1, "file_name", to="images/b.png"), r"is there as 'b.png' \(leading"),
    "image with backslash": (_set("images", 1, "file_name", to=".\\b.png"), "backslashes"),
    "file_name absolute": (_set("images", 1, "file_name", to="/b.png"), "'/b.png' lies outside the image folder"),
    "file_name upwards": (_set("images", 1, "file_name", to="../b.png"), "'../b.png' lies outside"),
    "size differs": (_set("images", 1, "width", to=99), "b.png is 16x12, JSON says 99x12"),
    "annotation without id": (_drop("annotations", 1, "id"), r"annotations\[1\]: key 'id' is missing"),
    "annotation without image_id": (_drop("annotations", 1, "image_id"), "annotation 11: key 'image_id'"),
    "annotation without bbox": (_drop("annotations", 1, "bbox"), "annotation 11: key 'bbox'"),
    "annotation id twice": (_set("annotations", 1, "id", to=10), "annotation ids occur more than once: 10"),
    "unknown image": (_set("annotations", 1, "image_id", to=5), "unknown image, first: annotation 11 with image_id 5"),
    "image id as text": (_set("annotations", 1, "image_id", to="1"), "write image_id as 1"),
    "unknown category": (_set("annotations", 1, "category_id", to=5), "annotation 11 with category_id 5"),
    "category id of an annotation a list": (_set("annotations", 1, "category_id", to=[3]), r"category_id \[3\]"),
    "box of 3": (_set("annotations", 1, "bbox", to=[1, 2, 3]), r"annotation 11: bbox \[1, 2, 3\]"),
    "box with NaN": (_set("annotations", 1, "bbox", to=[1, 2, 3, math.nan]), "annotation 11: bbox"),
    "box of text": (_set("annotations", 1, "bbox", to=["1", 2, 3, 4]), "annotation 11: bbox"),
    "ignore": (_set("annotations", 1, "ignore", to=1), "annotation 11: key 'ignore'"),
    "iscrowd 2": (_set("annotations", 1, "iscrowd", to=2), "annotation 11: iscrowd 2"),
    "polygon flat": (_set("annotations", 1, "segmentation", to=[1, 2, 3, 4, 5, 6]), "annotation 11: segmentation"),
    "polygon of 2 points": (
        _set("annotations", 1, "segmentation", to=[[1, 2, 3, 4]]),
        "annotation 11: a polygon has 4",
    ),
    "polygon odd": (_set("annotations", 1, "segmentation", to=[[1, 2, 3, 4, 5, 6, 7]]), "annotation 11: .* 7 numbers"),
    "polygon NaN": (_set("annotations", 1, "segmentation", to=[[1, 2, 3, 4, 5, math.inf]]), "annotation 11: a polygon"),
    "mask a text": (_set("annotations", 1, "segmentation", to="x"), "annotation 11: segmentation is a string"),
    "RLE without size": (_set("annotations", 1, "segmentation", to={"counts": [1]}), "annotation 11: RLE .*'size'"),
    "RLE of other size": (
        _set("annotations", 1, "segmentation", to={**RLE, "size": [WIDTH, HEIGHT]}),
        r"annotation 11: RLE size \[16, 12\] differs .* \[12, 16\]",
    ),
    "RLE too short": (_set("annotations", 1, "segmentation", to={**RLE, "counts": [20, 8]}), "sum to 28, not to"),
    "RLE cut off": (_set("annotations", 1, "segmentation", to={**RLE, "counts": "d0`"}), "annotation 11: RLE counts"),
}


@pytest.mark.parametrize(("change", "says"), BAD.values(), ids=BAD.keys())
def test_mistake_is_told_in_one_line_with_file_and_culprit(
    folder: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    data = sound()
    change(data)
    with pytest.raises(InputError, match=says) as caught:
        check(folder, data)
    assert "\n" not in str(caught.value)
    assert str(folder / "set.json") in str(caught.value)


BAD_FILES = {
    "empty": (b"", "the file is empty"),
    "cut off": (b'{"images": [', "not JSON: .* at line 1 column 13"),
    "second line": (b'{\n"images" 1}', "line 2 column 10"),
    "list": (b"[]", "top level is a list"),
    "null": (b"null", "top level is null"),
    "no keys": (b"{}", "keys present: none"),
    "not UTF-8": (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
    "an image": (b"\x89PNG\r\n", "byte 0 is not UTF-8"),
}


@pytest.mark.parametrize(("content", "says"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_file_that_is_no_coco_json_is_refused(folder: Path, content: bytes, says: str) -> None:
    path = folder / "set.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        check_coco_json(path, folder / "images")
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_json_folder_as_json_and_missing_image_folder_are_refused(folder: Path) -> None:
    for json_path, root, culprit in (
        (folder / "absent.json", folder / "images", "absent.json: no such JSON file"),
        (folder / "absent" / "x.json", folder / "images", "folder does not exist either"),
        (folder, folder / "images", "is a folder"),
        (write(folder, sound()), folder / "photos", "photos: no such image folder"),
    ):
        with pytest.raises(InputError, match=culprit):
            check_coco_json(json_path, root)


def test_missing_images_are_counted_and_three_named(folder: Path) -> None:
    data = sound()
    data["images"] += [{**data["images"][0], "id": 10 + i, "file_name": f"m{i}.png"} for i in range(5)]
    assert "5 of 7 images" in (message := refused(folder, data))
    assert "'m0.png', 'm1.png', 'm2.png', ... (5 in all)" in message


def test_image_in_a_subfolder_is_pointed_to(folder: Path) -> None:
    (folder / "images" / "part").mkdir()
    (folder / "images" / "b.png").rename(folder / "images" / "part" / "b.png")
    assert "'b.png' is there as 'part/b.png' (leading folders)" in refused(folder, sound())
    (folder / "images" / "a.png").rename(folder / "images" / "part" / "a.png")
    assert f"it is there from {folder / 'images' / 'part'}: give that" in refused(folder, sound())


def test_byte_order_mark_is_accepted(folder: Path) -> None:
    path = folder / "set.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(sound()).encode())
    assert check_coco_json(path, folder / "images").gaps == ("byte order mark",)


def test_a_file_that_is_no_image_or_too_large_is_refused_by_name(folder: Path) -> None:
    (folder / "images" / "b.png").write_text("<html>")
    assert "b.png: cannot be read as an image" in refused(folder, sound())
    Image.new("L", (WIDTH, HEIGHT)).save(folder / "images" / "b.png")
    with pytest.raises(
        InputError, match=r"more than 0\.0001 million: cut it into tiles, or raise .* INPUT\.MAX_PIXELS"
    ):
        check(folder, sound(), max_pixels=100)


@pytest.mark.parametrize(("most", "dark"), [(4095, True), (1023, True), (200, True), (4096, False), (65535, False)])
def test_numbers_of_fewer_bits_than_a_file_has_room_for_are_told(
    folder: Path, write: Callable[..., Path], most: int, dark: bool
) -> None:
    for name in ("a.png", "b.png"):
        pixels = np.linspace(0, most, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint16)
        Image.fromarray(pixels).save(folder / "images" / name)
    found = [one for one in check_dataset(write(sound()), folder / "images") if one.kind == "image-dark"]
    assert bool(found) == dark
    assert not dark or f"is brighter than {most >> 8} of 255: 'a.png', 'b.png'" in found[0].text


def test_an_image_of_16_bits_is_read_as_everywhere(folder: Path) -> None:
    Image.new("I;16", (WIDTH, HEIGHT)).save(folder / "images" / "b.png")
    check(folder, sound())


def test_rotation_by_exif_counts_and_is_told_from_rescaling(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "images" / "b.jpg", exif=exif)
    data = sound()
    data["images"][1]["file_name"] = "b.jpg"
    message = refused(folder, data)
    assert "b.jpg is 12x16, JSON says 16x12" in message
    assert "remove the EXIF orientation" in message
    data["images"][1].update(width=HEIGHT, height=WIDTH)
    check(folder, data)


def test_files_are_left_alone_on_a_second_look(folder: Path) -> None:
    (folder / "images" / "b.png").unlink()
    assert check(folder, sound(), check_files=False).num_images == 2


def test_json_without_annotations_passes_where_none_are_required(folder: Path) -> None:
    summary = check(folder, {**sound(), "annotations": []}, require_annotations=False)
    assert (summary.num_negatives, summary.mask_format) == (2, None)


def test_odd_boxes_are_counted(folder: Path) -> None:
    data = sound()
    data["annotations"][0]["bbox"] = [1, 1, 0, 3]
    data["annotations"][1]["bbox"] = [10, 8, 15, 11]
    notes = " | ".join(check(folder, data).notes)
    assert "1 of 3 boxes have no area" in notes
    assert "1 of 3 boxes (34%) leave their image" in notes
    assert "x1, y1" not in notes
    data["annotations"][2]["bbox"] = [10, 8, 15, 11]
    assert "none as [x1, y1, x2, y2]: is this meant?" in " | ".join(check(folder, data).notes)


@pytest.mark.parametrize(
    ("segmentations", "crowd", "expected"),
    [
        ([[[1, 1, 5, 1, 5, 5]], RLE], 0, "bitmask"),
        ([[[1, 1, 5, 1, 5, 5]], RLE], 1, "polygon"),
        ([RLE, RLE], 0, "bitmask"),
        ([[[1, 1, 5, 1, 5, 5]], []], 0, None),
        ([[[1, 1, 5, 1, 5, 5]], None], 0, None),
        ([None, None], 0, None),
    ],
)
def test_mask_format_follows_the_data(folder: Path, segmentations: list[Any], crowd: int, expected: str | None) -> None:
    """An RLE of a crowd region, as COCO has them, does not make the format: those are not trained on."""
    data = sound()
    first, second = segmentations
    data["annotations"] = [annotation(1, segmentation=first), annotation(2, segmentation=second, iscrowd=crowd)]
    assert check(folder, data).mask_format == expected


def test_rle_in_text_form_is_read_as_pycocotools_writes_it(folder: Path) -> None:
    import numpy
    import pycocotools.mask as mask_util

    mask = (numpy.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.9).astype("uint8")
    encoded = mask_util.encode(numpy.asfortranarray(mask))
    rle = {"size": [HEIGHT, WIDTH], "counts": encoded["counts"].decode()}
    data = sound()
    data["annotations"] = [annotation(1, segmentation=rle)]
    del data["annotations"][0]["area"]
    assert check(folder, data).mask_format == "bitmask"
    full_json = Path(completed_copy(folder / "set.json"))
    assert json.loads(full_json.read_text())["annotations"][0]["area"] == mask.sum()


def test_completed_copy_has_no_gaps(folder: Path) -> None:
    data = sound()
    del data["info"]
    data["annotations"][0]["id"] = 0
    for entry in data["annotations"]:
        del entry["iscrowd"], entry["area"]
    data["annotations"][1]["segmentation"] = []
    assert check(folder, data).gaps == ("no info", "no iscrowd", "no area", "annotation id 0")
    full_json = Path(completed_copy(folder / "set.json"))
    assert check_coco_json(full_json, folder / "images").gaps == ()
    full = json.loads(full_json.read_text())
    assert [entry["id"] for entry in full["annotations"]] == [1, 2, 3]
    assert [entry["area"] for entry in full["annotations"]] == [48, 48, 48]
    assert [path.name for path in full_json.parent.iterdir()] == [full_json.name]  # nothing half-written


def test_equal_classes_pass_whatever_their_ids(folder: Path) -> None:
    train = check(folder, sound())
    other = copy.deepcopy(sound())
    for entry in other["categories"] + other["annotations"]:
        key = "category_id" if "bbox" in entry else "id"
        entry[key] += 100
    same_classes(train, check_coco_json(write(folder, other, "val.json"), folder / "images"))


def test_classes_in_another_order_pass_and_are_told_of(folder: Path) -> None:
    train = check(folder, sound())
    other = {**sound(), "categories": [{"id": 3, "name": "fig"}, {"id": 7, "name": "date"}, {"id": 9, "name": "nut"}]}
    val = check_coco_json(write(folder, other, "val.json"), folder / "images")
    same_classes(train, val)
    (found,) = [finding for finding in compare_splits(train, val) if finding.kind == "split-order"]
    assert found.severity == "note"
    assert "'fig' (id 3) is class 0 here and class 1 there (id 7)" in found.text
    assert not [finding for finding in compare_splits(train, train) if finding.kind == "split-order"]


@pytest.mark.parametrize(
    ("categories", "says"),
    [
        ([(3, "date"), (7, "fig")], r"only in .*set.json: 'nut'"),
        (
            [(3, "date"), (7, "Fig"), (9, "nut")],
            r"only in .*set.json: 'fig'; only in .*val.json: 'Fig' .*upper and lower",
        ),
    ],
)
def test_other_classes_in_val_are_refused_with_the_difference(
    folder: Path, categories: list[tuple[int, str]], says: str
) -> None:
    train = check(folder, sound())
    other = {**sound(), "categories": [{"id": id_, "name": name} for id_, name in categories]}
    val = check_coco_json(write(folder, other, "val.json"), folder / "images")
    with pytest.raises(InputError, match=says) as caught:
        same_classes(train, val)
    assert "\n" not in str(caught.value)
