"""Folders of classes as ImageNet has them, and reading images without surprises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from media import write_class_folders
from PIL import Image

from hiera_det.data.image_folder import find_class_folders, find_files_below, read_rgb
from hiera_det.errors import InputError


def test_classes_are_the_folders_sorted_by_name(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "train", 2)
    (root / "red" / "more").mkdir()
    (root / "red" / "0.jpg").rename(root / "red" / "more" / "deep.JPEG")
    (root / "red" / ".hidden.jpg").write_bytes(b"")
    (root / "red" / "notes.txt").write_text("no image")
    (root / ".cache").mkdir()
    found = find_class_folders(str(root))
    assert found.classes == ("blue", "green", "red")
    names = [Path(file).relative_to(root).as_posix() for file in found.files]
    assert names == ["blue/0.jpg", "blue/1.jpg", "green/0.jpg", "green/1.jpg", "red/1.jpg", "red/more/deep.JPEG"]
    assert found.labels == (0, 0, 1, 1, 2, 2)


def test_labels_follow_the_order_of_given_classes_of_which_some_may_lack(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "val", 1, {"red": (255, 0, 0), "blue": (0, 0, 255)})
    found = find_class_folders(str(root), ("red", "green", "blue"))
    assert found.classes == ("red", "green", "blue")
    assert found.labels == (2, 0)


def test_images_are_found_at_any_depth(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path / "all", 2)
    assert len(find_files_below(str(root))) == 6


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (None, "no such folder"),
        ((), "there are no class folders"),
        (("red", "empty/"), "empty: there are no images below this folder"),
        (("red", "pink"), r"1 of its 2 classes are none of the model's 3 \(pink\)"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_line(make: tuple[str, ...] | None, says: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    if make is not None:
        root.mkdir()
    for name in make or ():
        (root / name).mkdir()
        if not name.endswith("/"):
            Image.new("RGB", (8, 8)).save(root / name / "a.png")
    known = ("blue", "green", "red") if make and "pink" in make else ()
    with pytest.raises(InputError, match=says) as refused:
        find_class_folders(str(root), known)
    assert str(root) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_image_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg", exif=exif)
    assert read_rgb(str(tmp_path / "a.jpg")).size == (10, 20)


def test_grey_of_16_bits_is_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0x80FF, dtype=np.uint16)).save(tmp_path / "a.png")
    image = read_rgb(str(tmp_path / "a.png"))
    assert image.mode == "RGB"
    assert image.getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_white(mode: str, tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).convert(mode).save(tmp_path / "a.png")
    assert read_rgb(str(tmp_path / "a.png")).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "white").convert(mode).save(tmp_path / "a.tif")
    assert read_rgb(str(tmp_path / "a.tif")).getpixel((0, 0)) == (255, 255, 255)


def test_a_postscript_file_named_jpg_is_not_run(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    Image.open(tmp_path / "a.jpg").close()  # Pillow by itself would take it
    with pytest.raises(InputError, match=r"a.jpg: cannot be read as an image \(none of JPEG"):
        read_rgb(str(tmp_path / "a.jpg"))


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:900])
    with pytest.raises(InputError, match=r"cut.jpg: cannot be read as an image \(image file is truncated"):
        read_rgb(str(tmp_path / "cut.jpg"))
    with pytest.raises(InputError, match=r"no.jpg: cannot be read as an image \(No such file"):
        read_rgb(str(tmp_path / "no.jpg"))


def test_a_small_file_of_too_many_pixels_is_refused(tmp_path: Path) -> None:
    Image.new("1", (11000, 10000)).save(tmp_path / "bomb.png")
    with pytest.raises(
        InputError, match=r"bomb.png: cannot be read as an image \(Image size \(110000000 pixels\) exceeds"
    ):
        read_rgb(str(tmp_path / "bomb.png"))
