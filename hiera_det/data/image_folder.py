"""Images below a folder, with or without a folder per class, and reading them as a classifier sees them.

The layout of classes is ImageNet's: ``train/<class>/*.JPEG``. What an image is shows in its first bytes; only formats
that run no other program are decoded.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hiera_det.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["FORMATS", "SUFFIXES", "ImageFolder", "find_class_folders", "find_files_below", "read_rgb"]

#: Pillow's decoders that are tried; not EPS, which would start Ghostscript whatever the file is called.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
#: Endings of the files that a folder is searched for.
SUFFIXES = (".bmp", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
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


def read_rgb(path: str) -> Image.Image:
    """Read an image upright, as RGB.

    Transparent parts are laid on white; 16-bit grey is brought to 8 bits by its high byte, where Pillow would clip it.

    Raises:
        InputError: it cannot be read, is no image in one of `FORMATS`, or has more pixels than Pillow lets pass without
            a warning (89 million).
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
        with image:
            image.load()
            return _as_rgb(ImageOps.exif_transpose(image))
    except Image.UnidentifiedImageError:
        raise InputError(f"{path}: cannot be read as an image (none of {', '.join(FORMATS)})") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: cannot be read as an image ({reason})") from None


def _as_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB without clipping and without colours that nobody saw."""
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are of mode {image.mode}; save it with 8 or 16 bits per channel")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
