"""Image files under other names than the JSON's: found, named, and mended in one step."""

from __future__ import annotations

import os
import shlex
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from coco_data import sound

from hiera_det.data.coco.check import check_coco_json, check_dataset
from hiera_det.data.coco.names import Folder, leads_outside
from hiera_det.data.coco.repair import repair_coco_json
from hiera_det.errors import InputError

NFC, NFD = (unicodedata.normalize(form, "photo é.png") for form in ("NFC", "NFD"))

#: Name in the JSON, name on the disk, what the advice calls the difference.
OTHER_NAMES = {
    "letter case": ("B.PNG", "b.png", "letter case"),
    "case of a folder": ("Train/b.png", "train/b.png", "letter case"),
    "ending": ("b.jpg", "b.png", "ending"),
    "blank at its end": ("b.png ", "b.png", ""),
    "ending in capitals": ("b.JPEG", "b.png", "ending"),
    "no ending": ("b", "b.png", "ending"),
    "composed accent": (NFC, NFD, "Unicode form"),
    "decomposed accent": (NFD, NFC, "Unicode form"),
    "%20": ("photo%20b.png", "photo b.png", "%20"),
    "backslash": ("part\\b.png", "part/b.png", "backslashes"),
    "drive letter": ("C:\\data\\b.png", "b.png", "backslashes, leading folders"),
    "leading folders": ("data/images/b.png", "b.png", "leading folders"),
    "absolute": ("/home/me/data/b.png", "b.png", "leading folders"),
    "upwards": ("../../label-studio/b.png", "b.png", "leading folders"),
    "in a folder within": ("b.png", "part/b.png", "leading folders"),
    "all at once": ("x\\Photo%20B.JPG", "photo b.png", "backslashes"),
}


@pytest.mark.parametrize(("name", "actual", "difference"), OTHER_NAMES.values(), ids=OTHER_NAMES.keys())
def test_file_under_another_name_is_named_and_mended_in_one_step(
    folder: Path, write: Callable[..., Path], name: str, actual: str, difference: str
) -> None:
    images = folder / "images"
    (images / actual).parent.mkdir(exist_ok=True)
    (images / "b.png").rename(images / actual)
    data = sound()
    data["images"][1]["file_name"] = name
    path = write(data)
    (finding,) = (found for found in check_dataset(path, images) if found.severity == "error")
    assert finding.kind == "image-named-otherwise"
    assert f"is there as {actual!r} ({difference}" in finding.remedy
    repair_coco_json(path, images, folder / "fixed.json")
    assert check_coco_json(folder / "fixed.json", images).num_images == 2


@pytest.mark.parametrize("prefix", ["", "images/", "sub/images/"])
def test_image_folder_one_level_off_is_named(folder: Path, write: Callable[..., Path], prefix: str) -> None:
    """Above the right one, and below it."""
    data = sound()
    for image in data["images"]:
        image["file_name"] = prefix + image["file_name"]
    right = folder
    if prefix == "":
        given, right = folder, folder / "images"
    elif prefix == "images/":
        given = folder / "images"
    else:
        (folder / "sub").mkdir()
        (folder / "images").rename(folder / "sub" / "images")
        given = folder / "sub" / "images"
    path = write(data)
    with pytest.raises(InputError, match=f"it is there from {right}: give that as the image folder"):
        check_coco_json(path, given)
    check_coco_json(path, right)


@pytest.mark.parametrize("name", ["images", "my images"])
def test_backslashes_and_a_folder_off_are_mended_by_the_one_command_that_is_named(
    folder: Path, write: Callable[..., Path], name: str
) -> None:
    """The folder given is the one that the names begin with: the advice must not stop at the folder."""
    images = (folder / "images").rename(folder / name)
    data = sound()
    for image in data["images"]:
        image["file_name"] = f"{name}\\{image['file_name']}"
    path = write(data)
    (finding,) = (found for found in check_dataset(path, images) if found.severity == "error")
    command = shlex.split(finding.remedy.split("`")[1])
    assert command[:2] == ["hiera-det", "check"]
    json_path, root, out = command[2], command[3], folder / "fixed.json"
    repair_coco_json(json_path, root, out)
    check_coco_json(out, root)


def test_a_name_that_is_nowhere_gets_no_wrong_advice(folder: Path, write: Callable[..., Path]) -> None:
    data = sound()
    data["images"][1]["file_name"] = "c.png"
    with pytest.raises(InputError, match=r"1 of 2 images are not in .*: 'c\.png'; copy them there"):
        check_coco_json(write(data), folder / "images")


def test_of_two_files_that_a_name_may_mean_none_is_taken(folder: Path, write: Callable[..., Path]) -> None:
    data = sound()
    data["images"][1]["file_name"] = "c.jpg"
    for name in ("c.png", "c.bmp"):
        (folder / "images" / "a.png").with_name(name).write_bytes((folder / "images" / "a.png").read_bytes())
    with pytest.raises(InputError, match="copy them there"):
        check_coco_json(write(data), folder / "images")


def test_names_out_of_the_folder_are_told_apart() -> None:
    assert all(map(leads_outside, ("/a.png", "../a.png", "a/../../b.png", "..")))
    assert not any(map(leads_outside, ("a.png", "a/b.png", "a/../b.png", "..a.png", "./a.png")))


def test_links_are_followed_and_those_that_lead_out_are_counted(folder: Path, write: Callable[..., Path]) -> None:
    """The policy: a file name stays in the folder, a link in it may lead anywhere; only regular files are read."""
    images = folder / "images"
    (images / "b.png").rename(folder / "elsewhere.png")
    (images / "b.png").symlink_to(folder / "elsewhere.png")
    path = write(sound())
    assert [found.kind for found in check_dataset(path, images) if "link" in found.kind] == ["image-link"]
    (images / "b.png").unlink()
    (images / "b.png").symlink_to(folder / "nowhere.png")
    assert not Folder(str(images)).has("b.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_named_as_an_image_is_not_opened(folder: Path, write: Callable[..., Path], linked: bool) -> None:
    (folder / "images" / "b.png").unlink()
    pipe = folder / "pipe" if linked else folder / "images" / "b.png"
    os.mkfifo(pipe)
    if linked:
        (folder / "images" / "b.png").symlink_to(pipe)
    with pytest.raises(InputError, match=r"1 of 2 images are not in .*: 'b\.png'"):
        check_coco_json(write(sound()), folder / "images")


@pytest.mark.parametrize(
    "name", ["a\x1b[31m.png", "a\nb.png", "a\u202e.png", "a\x00.png", "\ud800.png", "a" * 300 + ".png"]
)
def test_hostile_names_are_told_in_one_plain_line(folder: Path, write: Callable[..., Path], name: str) -> None:
    data = sound()
    data["images"][1]["file_name"] = name
    with pytest.raises(InputError) as caught:
        check_coco_json(write(data), folder / "images")
    assert str(caught.value).isprintable()
