"""Finding image files: by name, folder or pattern, at any depth, and in a folder per class; places for their pictures.

The layout of classes is ImageNet's: ``train/<class>/*.JPEG``. Links are followed, to files and to folders: who sets up
a folder decides what is in it.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hiera_det.errors import InputError
from hiera_det.files import make_folder

__all__ = ["SUFFIXES", "ImageFolder", "find_class_folders", "find_files_below", "find_images", "output_paths"]

#: What counts as an image in a folder or pattern; a file that is named itself may end in anything.
SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
SHOWN = 5


@dataclass(frozen=True)
class ImageFolder:
    """Images and their classes.

    Attributes:
        root: the folder.
        classes: names of the classes in the order of their indices.
        files: paths of the images, class by class, sorted.
        labels: the class index of each.
    """

    root: str
    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: tuple[int, ...]


def find_files_below(root: str, suffixes: Sequence[str] = SUFFIXES, what: str = "images") -> list[str]:
    """All files below a folder, at any depth, that end like images; hidden ones are left out.

    Args:
        root: the folder.
        suffixes: endings in lower case.
        what: what they are, for the message.

    Returns:
        paths, sorted.

    Raises:
        InputError: there is no such folder, or there is none in it.
    """
    if not os.path.isdir(root):
        raise InputError(f"{root}: no such folder")
    found = []
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [os.path.join(folder, n) for n in names if n.lower().endswith(tuple(suffixes)) and n[0] != "."]
    if not found:
        raise InputError(f"{root}: there are no {what} below this folder ({' '.join(suffixes)})")
    return sorted(found)


def find_class_folders(root: str, classes: Sequence[str] = (), suffixes: Sequence[str] = SUFFIXES) -> ImageFolder:
    """The images of a folder of class folders.

    Args:
        root: holds a folder per class; all files below one belong to its class.
        classes: the classes in the order of their indices, as of a training; a folder must be named as one of them,
            and not every one needs a folder. Empty for the folders themselves, sorted by name.
        suffixes: endings of the files.

    Raises:
        InputError: there is no such folder, no class in it, a class without images, or one that is not in ``classes``.
    """
    if not os.path.isdir(root):
        raise InputError(f"{root}: no such folder; give one that holds a folder of images per class")
    with os.scandir(root) as entries:
        folders = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise InputError(f"{root}: there are no class folders in it; images belong into {root}/<class>/")
    known = tuple(classes) or tuple(folders)
    strange = [name for name in folders if name not in known]
    if strange:
        shown = ", ".join(strange[:SHOWN]) + (", ..." if len(strange) > SHOWN else "")
        raise InputError(
            f"{root}: {len(strange)} of its {len(folders)} classes are none of the model's {len(known)} ({shown}); "
            f"its folders must be named as those, such as {known[0]}"
        )
    number = {name: index for index, name in enumerate(known)}
    files: list[str] = []
    labels: list[int] = []
    for name in folders:
        found = find_files_below(os.path.join(root, name), suffixes)
        files += found
        labels += [number[name]] * len(found)
    return ImageFolder(root, known, tuple(files), tuple(labels))


def find_images(inputs: Sequence[str], suffixes: Sequence[str] = SUFFIXES) -> list[str]:
    """The image files that names, folders and patterns stand for, each once.

    Args:
        inputs: files, which are taken as they are; folders, whose images are taken, but not those of their folders;
            patterns such as ``photos/*.jpg`` or ``photos/**/*.png``, in which ``**`` is any depth of folders.
        suffixes: endings, in lower case, of what counts as an image in folders and patterns.

    Returns:
        paths, in the order of the inputs and sorted within each.

    Raises:
        InputError: an input stands for no image.
    """
    found: dict[str, str] = {}  # by its real path
    for name in inputs:
        for path in _matches(name, tuple(suffixes)):
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _matches(name: str, suffixes: tuple[str, ...]) -> list[str]:
    """What one input stands for."""
    if os.path.isfile(name):
        return [name]
    if os.path.isdir(name):
        with os.scandir(name) as entries:
            images = _images((entry.path for entry in entries), suffixes)
        if not images:
            raise InputError(f"{name}: there are no images in this folder ({' '.join(suffixes)})")
        return images
    images = _images(glob.glob(os.path.expanduser(name), recursive=True), suffixes)
    if not images:
        kind = "no image matches this pattern" if glob.has_magic(name) else "no such file or folder"
        raise InputError(f"{name}: {kind}")
    return images


def _images(paths: Iterable[str], suffixes: tuple[str, ...]) -> list[str]:
    """Those that are images by their names, hidden ones left out; a link to nowhere is named when it is read."""
    named = (path for path in paths if path.lower().endswith(suffixes) and not os.path.basename(path).startswith("."))
    return sorted(path for path in named if os.path.isfile(path) or os.path.islink(path))


def output_paths(files: Sequence[str], folder: str, *, overwrite: bool = False) -> list[str]:
    """A place for a picture of each image, and the folder for them.

    Args:
        files: the images.
        folder: made where it is not there.
        overwrite: take places that other files have; those of the images themselves are never taken.

    Returns:
        ``<folder>/<stem>.jpg`` for each image; images of the same stem are numbered.

    Raises:
        InputError: the folder is one that the images are in, or cannot be written, or a place is taken.
    """
    real = os.path.realpath(folder)
    own = next((file for file in files if os.path.dirname(os.path.realpath(file)) == real), None)
    if own is not None:
        raise InputError(f"{folder}: the image {own} is in this folder and could be overwritten; name another folder")
    make_folder(folder)
    paths = [os.path.join(folder, f"{name}.jpg") for name in _distinct_stems(files)]
    taken = [path for path in paths if os.path.lexists(path)]
    if taken and not overwrite:
        raise InputError(f"{taken[0]}: is there already; name another folder, or use --overwrite")
    return paths


def _distinct_stems(files: Sequence[str]) -> list[str]:
    """The files' names without their endings, numbered where an earlier one is the same in all but letter case."""
    stems: dict[str, str] = {}
    numbers: Counter[str] = Counter()
    for file in files:
        name = stem = os.path.splitext(os.path.basename(file))[0]
        while name.lower() in stems:
            numbers[stem] += 1
            name = f"{stem}_{numbers[stem] + 1}"
        stems[name.lower()] = name
    return list(stems.values())
