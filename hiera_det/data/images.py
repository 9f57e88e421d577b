"""Finding image files by name, folder or pattern, and reading their sizes without their pixels."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence

from hiera_det.data.coco.check import EXIF_FIRST_SWAPPED, EXIF_ORIENTATION
from hiera_det.errors import InputError
from hiera_det.files import make_folder

__all__ = ["EXTENSIONS", "UNREADABLE", "find_images", "output_paths", "upright_size"]

#: What counts as an image in a folder or pattern; a file that is named itself may end in anything.
EXTENSIONS = (".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
#: What Pillow raises for files that are damaged or no images (its own errors for both are kinds of `OSError`).
UNREADABLE = (OSError, SyntaxError, ValueError)


def find_images(inputs: Sequence[str]) -> list[str]:
    """The image files that names, folders and patterns stand for, each once.

    Args:
        inputs: files, which are taken as they are; folders, whose images are taken, but not those of their folders;
            patterns such as ``photos/*.jpg`` or ``photos/**/*.png``, in which ``**`` is any depth of folders.

    Returns:
        paths, in the order of the inputs and sorted within each.

    Raises:
        InputError: an input stands for no image.
    """
    found: dict[str, str] = {}  # by its real path
    for name in inputs:
        for path in _matches(name):
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _matches(name: str) -> list[str]:
    """What one input stands for."""
    if os.path.isfile(name):
        return [name]
    if os.path.isdir(name):
        with os.scandir(name) as entries:
            images = _images(entry.path for entry in entries)
        if not images:
            raise InputError(f"{name}: there are no images in this folder ({' '.join(EXTENSIONS)})")
        return images
    images = _images(glob.glob(os.path.expanduser(name), recursive=True))
    if not images:
        kind = "no image matches this pattern" if glob.has_magic(name) else "no such file or folder"
        raise InputError(f"{name}: {kind}")
    return images


def _images(paths: Iterable[str]) -> list[str]:
    """Those that are images by their names, hidden ones left out."""
    return sorted(
        path
        for path in paths
        if path.lower().endswith(EXTENSIONS) and not os.path.basename(path).startswith(".") and os.path.isfile(path)
    )


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


def upright_size(path: str) -> tuple[int, int]:
    """Height and width of an image in pixels as it is shown, EXIF orientation applied; only its header is read.

    Raises:
        OSError, SyntaxError, ValueError: it cannot be read, or is no image (`UNREADABLE`).
    """
    from PIL import Image

    try:
        with Image.open(path) as header:
            width, height = header.size
            swapped = header.getexif().get(EXIF_ORIENTATION, 1) >= EXIF_FIRST_SWAPPED
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from None
    return (width, height) if swapped else (height, width)
