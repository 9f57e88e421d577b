"""Finding image files: by name, folder or pattern, at any depth, and in a folder per class; places for their pictures.

The layout of classes is ImageNet's: ``train/<class>/*.JPEG``. Links are followed, to files and to folders: who sets up
a folder decides what is in it.
"""

from __future__ import annotations

import glob
import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from hiera_det.errors import InputError, printable
from hiera_det.files import make_folder

__all__ = [
    "SUFFIXES",
    "ImageFolder",
    "distinct_stems",
    "find_class_folders",
    "find_files_below",
    "find_images",
    "output_paths",
]

#: What counts as an image in a folder or pattern; a file that is named itself may end in anything.
SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
SHOWN = 5

logger = logging.getLogger("hiera_det.images")


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
    """All files below a folder, at any depth, that end like images; what else is there is told in a line.

    Args:
        root: the folder.
        suffixes: endings in lower case.
        what: what they are, for the message.

    Returns:
        paths, sorted.

    Raises:
        InputError: there is no such folder, or there is none in it.
    """
    others = _Others()
    found = _files_below(root, suffixes, what, others)
    others.tell(root)
    return found


def _files_below(root: str, suffixes: Sequence[str], what: str, others: _Others) -> list[str]:
    """What `find_files_below` finds; counts the rest."""
    if not os.path.isdir(root):
        raise InputError(f"{root}: no such folder")
    found = _images(_walk(root), suffixes, others)
    if not found:
        raise InputError(f"{root}: there are no {what} below this folder ({' '.join(suffixes)}){others.instead()}")
    return found


def _walk(root: str) -> Iterator[str]:
    """The files below a folder, hidden folders left out; each folder once, for links may lead round in a circle."""
    seen = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        subfolders[:] = [] if real in seen else sorted(name for name in subfolders if not _is_hidden(name))
        if real not in seen:
            yield from (os.path.join(folder, name) for name in names)
        seen.add(real)


def _is_hidden(folder: str) -> bool:
    """Whether nobody has put images there: a hidden folder, or one of a Mac's archives or a Synology's thumbnails."""
    return folder.startswith(".") or folder in ("__MACOSX", "@eaDir")


def find_class_folders(
    root: str, classes: Sequence[str] = (), suffixes: Sequence[str] = SUFFIXES, what: str = "images"
) -> ImageFolder:
    """The images, or videos, of a folder of class folders.

    Args:
        root: holds a folder per class; all files below one belong to its class.
        classes: the classes in the order of their indices, as of a training; a folder must be named as one of them,
            and not every one needs a folder. Empty for the folders themselves, sorted by name.
        suffixes: endings of the files.
        what: what they are, for messages.

    Raises:
        InputError: there is no such folder, no class in it, a class without images, or one that is not in ``classes``.
    """
    if not os.path.isdir(root):
        raise InputError(f"{root}: no such folder; give one that holds a folder of {what} per class")
    with os.scandir(root) as entries:
        folders = sorted(entry.name for entry in entries if entry.is_dir() and not _is_hidden(entry.name))
    if not folders:
        raise InputError(f"{root}: there are no class folders in it; {what} belong into {root}/<class>/")
    plain = {name: unicodedata.normalize("NFC", name) for name in folders}  # systems write accents in two ways
    known = tuple(classes) or tuple(dict.fromkeys(plain.values()))
    numbers: dict[str, list[int]] = {}
    for index, name in enumerate(known):
        numbers.setdefault(unicodedata.normalize("NFC", name), []).append(index)
    if twice := next((name for name in folders if len(numbers.get(plain[name], ())) > 1), None):
        raise InputError(f"{root}: {twice} is the name of several of the model's classes; give each a name of its own")
    strange = [name for name in folders if plain[name] not in numbers]
    if strange:
        shown = ", ".join(strange[:SHOWN]) + (", ..." if len(strange) > SHOWN else "")
        raise InputError(
            f"{root}: {len(strange)} of its {len(folders)} classes are none of the model's {len(known)} ({shown}); "
            f"its folders must be named as those, such as {known[0]}"
        )
    files: list[str] = []
    labels: list[int] = []
    others = _Others()
    for name in folders:
        found = _files_below(os.path.join(root, name), suffixes, what, others)
        files += found
        labels += numbers[plain[name]] * len(found)
    others.tell(root)
    return ImageFolder(root, known, tuple(files), tuple(labels))


def find_images(inputs: Sequence[str], suffixes: Sequence[str] = SUFFIXES, *, recursive: bool = False) -> list[str]:
    """The image files that names, folders and patterns stand for, each once; what is passed over is told in a line.

    Args:
        inputs: files, which are taken as they are; folders, whose images are taken; patterns such as
            ``photos/*.jpg`` or ``photos/**/*.png``, in which ``**`` is any depth of folders.
        suffixes: endings, in lower case, of what counts as an image in folders and patterns.
        recursive: take the images of a folder's folders too, at any depth.

    Returns:
        paths, in the order of the inputs and sorted within each.

    Raises:
        InputError: an input stands for no image.
    """
    found: dict[str, str] = {}  # by its real path
    for name in inputs:
        for path in _matches(name, suffixes, recursive):
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _matches(name: str, suffixes: Sequence[str], recursive: bool) -> list[str]:
    """What one input stands for."""
    if os.path.isfile(name):
        return [name]
    paths: Iterable[str] = glob.iglob(os.path.expanduser(name), recursive=True)
    where = "no image matches this pattern" if glob.has_magic(name) else "no such file or folder"
    if os.path.isdir(name):
        paths = [name] if recursive else (os.path.join(name, entry) for entry in os.listdir(name))
        where = f"there are no images {'below' if recursive else 'in'} this folder ({' '.join(suffixes)})"
    if recursive:
        paths = (file for path in paths for file in (_walk(path) if os.path.isdir(path) else [path]))
    others = _Others()
    images = _images(paths, suffixes, others)
    if "**" in name:  # what is in these folders matches too
        others.folders = 0
    if not images:
        raise InputError(f"{name}: {where}{others.instead()}")
    others.tell(name)
    return images


def _images(paths: Iterable[str], suffixes: Sequence[str], others: _Others) -> list[str]:
    """Those that are images by their names; a link to nowhere is named when it is read."""
    found = []
    for path in paths:
        name = os.path.basename(path)
        if os.path.isdir(path):
            others.folders += not name.startswith(".")
        elif not name.lower().endswith(tuple(suffixes)):
            others.endings[os.path.splitext(name)[1].lower()] += not name.startswith(".")
        elif name.startswith("."):
            others.hidden += 1
        else:
            found.append(path)
    return sorted(found)


class _Others:
    """What a folder or pattern holds beside images; hidden files count where they end like images."""

    def __init__(self) -> None:
        self.folders = self.hidden = 0
        self.endings: Counter[str] = Counter()

    def __str__(self) -> str:
        endings = sorted((+self.endings).items(), key=lambda ending: (-ending[1], ending[0]))
        parts = [f"{count} {ending or 'without an ending'}" for ending, count in endings[:SHOWN]]
        if rest := sum(count for _, count in endings[SHOWN:]):
            parts.append(f"{rest} of other endings")
        if self.hidden:
            parts.append(f"{self.hidden} hidden")
        if self.folders:
            parts.insert(0, f"{self.folders} folder{'s' if self.folders > 1 else ''} (--recursive goes into folders)")
        return ", ".join(parts)

    def tell(self, where: str) -> None:
        """Log what is passed over."""
        if others := str(self):
            logger.info("%s: passed over: %s", printable(where), others)

    def instead(self) -> str:
        """What there is where there are no images, as the end of a refusal."""
        others = str(self)
        return f"; there are {others}" if others else ""


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
    paths = [os.path.join(folder, f"{name}.jpg") for name in distinct_stems(files)]
    taken = [path for path in paths if os.path.lexists(path)]
    if taken and not overwrite:
        raise InputError(f"{taken[0]}: is there already; name another folder, or use --overwrite")
    return paths


def distinct_stems(files: Sequence[str]) -> list[str]:
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
