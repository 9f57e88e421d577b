"""Image files by name, folder and pattern, folders of classes as ImageNet has them, and places for pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from media import write_class_folders
from PIL import Image

from hiera_det.data.image_folder import find_class_folders, find_files_below, find_images, output_paths
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


def test_folders_that_a_system_has_made_are_no_classes(tmp_path: Path) -> None:
    root = write_class_folders(
        tmp_path / "val", 1, {"red": (255, 0, 0), "red/@eaDir": (0, 0, 0), "__MACOSX": (0, 0, 0)}
    )
    found = find_class_folders(str(root))
    assert found.classes == ("red",)
    assert found.labels == (0,)
    assert len(find_files_below(str(root))) == 1


def test_classes_are_the_same_however_their_accents_are_written(tmp_path: Path) -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    root = write_class_folders(tmp_path / "val", 1, {"a": (0, 0, 0), apart: (0, 0, 255)})
    assert find_class_folders(str(root), (composed, "a")).labels == (1, 0)


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


def test_folders_below_are_taken_where_asked_and_a_link_in_a_circle_once(photos: Path) -> None:
    (photos / "deeper" / "round").symlink_to(photos)
    names = ["a.png", "b.JPG", "deeper/a.png", "deeper/c.jpg"]
    for given in (photos, photos.parent / "pho*"):
        found = find_images([str(given)], recursive=True)
        assert [Path(path).relative_to(photos).as_posix() for path in found] == names


def test_what_is_no_image_is_told_in_one_line_with_counts(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "hiera_det")
    for name in ("a.avif", "b.AVIF", "README", ".DS_Store"):
        (photos / name).write_bytes(b"")
    find_images([str(photos)])
    rest = "2 .avif, 1 without an ending, 1 .txt, 1 hidden"
    assert caplog.messages == [f"{photos}: passed over: 1 folder (--recursive goes into folders), {rest}"]
    caplog.clear()
    find_images([str(photos)], recursive=True)
    find_files_below(str(photos))
    find_images([str(photos / "**")])
    assert caplog.messages == [f"{photos}: passed over: {rest}"] * 2 + [
        f"{photos}/**: passed over: 2 .avif, 1 without an ending, 1 .txt"
    ]
    caplog.clear()
    for name in "ABCDEF":
        (tmp_path / "many" / name).mkdir(parents=True)
        (tmp_path / "many" / name / f"a.{name}").write_bytes(b"")
        Image.new("RGB", (6, 4)).save(tmp_path / "many" / name / "a.png")
    find_class_folders(str(tmp_path / "many"))
    assert caplog.messages == [f"{tmp_path}/many: passed over: 1 .a, 1 .b, 1 .c, 1 .d, 1 .e, 1 of other endings"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.jpg", "missing.jpg: no such file or folder$"),
        ("*.tif", r"\*\.tif: no image matches this pattern$"),
        ("*.txt", r"\*\.txt: no image matches this pattern; there are 1 \.txt$"),
        ("deeper/empty", r"empty: there are no images in this folder \(.*\)$"),
        (
            "other",
            r"other: there are no images in this folder \(.*\); there are 1 folder \(--recursive .*\), 1 \.avif$",
        ),
    ],
)
def test_an_input_without_images_is_named_with_what_is_there(photos: Path, name: str, says: str) -> None:
    (photos / "deeper" / "empty").mkdir()
    (photos / "other" / "below").mkdir(parents=True)
    (photos / "other" / "a.avif").write_bytes(b"")
    with pytest.raises(InputError, match=says):
        find_images([str(photos), str(photos / name)])


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
