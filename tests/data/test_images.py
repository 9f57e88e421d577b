"""Image files by name, folder and pattern, and places for pictures of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from hiera_det.data.images import UNREADABLE, find_images, output_paths, upright_size
from hiera_det.errors import InputError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images in a folder and in one below it, among other files."""
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    for name in ("b.JPG", "a.png", "deeper/c.jpg", "deeper/a.png"):
        Image.new("RGB", (6, 4)).save(folder / name)
    (folder / ".hidden.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "notes.txt").write_text("no image")
    return folder


def test_files_folders_and_patterns_give_each_image_once(photos: Path) -> None:
    def names(*inputs: str) -> list[str]:
        found = find_images([str(photos / name) for name in inputs])
        return [Path(path).relative_to(photos).as_posix() for path in found]

    assert names("") == ["a.png", "b.JPG"]
    assert names("*.png") == ["a.png"]
    assert names("**/*.png") == ["a.png", "deeper/a.png"]
    assert names("*") == ["a.png", "b.JPG"]
    assert names("b.JPG", "", "deeper/../a.png", "notes.txt") == ["b.JPG", "a.png", "notes.txt"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.jpg", "missing.jpg: no such file or folder"),
        ("*.tif", r"\*\.tif: no image matches this pattern"),
        ("deeper/empty", "empty: there are no images in this folder"),
    ],
)
def test_an_input_without_images_is_named(photos: Path, name: str, says: str) -> None:
    (photos / "deeper" / "empty").mkdir()
    with pytest.raises(InputError, match=says):
        find_images([str(photos), str(photos / name)])


@pytest.mark.parametrize(("orientation", "size"), [(1, (4, 6)), (3, (4, 6)), (6, (6, 4)), (8, (6, 4))])
def test_size_is_that_of_the_upright_image(tmp_path: Path, orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert upright_size(str(tmp_path / "a.jpg")) == size


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n\x00"])
def test_what_is_no_image_raises_what_is_announced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UNREADABLE):
        upright_size(str(tmp_path / "a.png"))


def test_pictures_of_the_same_name_are_numbered(photos: Path, tmp_path: Path) -> None:
    files = [str(photos / name) for name in ("a.png", "b.JPG", "deeper/a.png")] + [str(tmp_path / "a_2.png")]
    paths = output_paths(files, str(tmp_path / "out" / "pictures"))
    assert [Path(path).name for path in paths] == ["a.jpg", "b.jpg", "a_2.jpg", "a_2_2.jpg"]
    assert (tmp_path / "out" / "pictures").is_dir()


@pytest.mark.parametrize("folder", ["photos", "link", "photos/deeper/.."])
@pytest.mark.parametrize("overwrite", [False, True])
def test_pictures_do_not_go_among_the_images(photos: Path, folder: str, overwrite: bool) -> None:
    (photos.parent / "link").symlink_to(photos)
    with pytest.raises(InputError, match="is in this folder and could be overwritten"):
        output_paths([str(photos / "b.JPG")], str(photos.parent / folder), overwrite=overwrite)


def test_a_place_that_is_taken_is_taken_only_if_asked(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.jpg").write_text("mine")
    files = [str(photos / name) for name in ("a.png", "b.JPG")]
    with pytest.raises(InputError, match=r"b\.jpg: is there already"):
        output_paths(files, str(tmp_path / "out"))
    assert len(output_paths(files, str(tmp_path / "out"), overwrite=True)) == 2
    with pytest.raises(InputError, match=r"notes\.txt: cannot be written"):
        output_paths(files, str(photos / "notes.txt"))
