"""Objects cut out of their images, and their masks, in a folder per class, as a classifier's training takes them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from hiera_det.errors import InputError
from hiera_det.files import make_folder, write_atomically
from hiera_det.predict.prediction import Prediction

__all__ = ["CutOuts", "SavedMasks", "folder_names"]

#: What Windows has for itself, whatever the ending.
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|$)")
#: Letters of a name that is made from a class's.
LONGEST = 60


class CutOuts:
    """Writes each object's part of the image, ``<folder>/<class>/<image>_<number>.jpg``.

    Args:
        folder: made where it is not there.
        files: that are read.
        overwrite: the folder may hold something.

    Raises:
        InputError: an image that is read lies in the folder, or it holds something.
    """

    flag, ending, format = "--crops", ".jpg", "JPEG"

    def __init__(self, folder: str, files: Sequence[str], overwrite: bool) -> None:
        self.folder = Path(folder)
        real = os.path.join(os.path.realpath(folder), "")
        if inside := next((file for file in files if os.path.realpath(file).startswith(real)), None):
            raise InputError(f"{self.flag} {folder}: the image {inside} lies in it; name another folder")
        if self.folder.is_dir() and any(self.folder.iterdir()) and not overwrite:
            raise InputError(f"{self.flag} {folder}: holds something; name another folder, or use --overwrite")
        make_folder(folder, self.flag)

    def write(self, prediction: Prediction, stem: str) -> None:
        """Write all objects of an image; their numbers count them as in the results, from 0.

        Args:
            prediction: what was found.
            stem: the image's name for files.
        """
        folders = folder_names([category["name"] for category in prediction.categories])
        for number, index in enumerate(prediction.classes.tolist()):
            picture = self.picture(prediction, number)
            if picture is not None:
                folder = self.folder / (folders[index] if index < len(folders) else f"class_{index}")
                folder.mkdir(exist_ok=True)
                place = folder / f"{stem}_{number}{self.ending}"
                write_atomically(place, partial(picture.save, format=self.format), durable=False)

    def picture(self, prediction: Prediction, number: int) -> Image.Image | None:
        """What is written of an object; None where its box has no pixel."""
        height, width = prediction.image.shape[:2]
        x0, y0, x1, y1 = prediction.boxes[number].tolist()
        left, top = max(0, int(np.floor(x0))), max(0, int(np.floor(y0)))
        right, bottom = min(width, int(np.ceil(x1))), min(height, int(np.ceil(y1)))
        if right <= left or bottom <= top:
            return None
        return Image.fromarray(prediction.image[top:bottom, left:right])


class SavedMasks(CutOuts):
    """Writes each object's mask, white on black and as large as the image; arguments as of `CutOuts`."""

    flag, ending, format = "--save-masks", ".png", "PNG"

    def picture(self, prediction: Prediction, number: int) -> Image.Image:
        """The mask."""
        assert prediction.masks is not None
        return Image.fromarray(prediction.masks[number].astype(np.uint8) * np.uint8(255))

    def write(self, prediction: Prediction, stem: str) -> None:
        """See `CutOuts.write`.

        Raises:
            InputError: the detector finds no masks.
        """
        if prediction.masks is None:
            raise InputError(f"{self.flag}: this detector finds boxes only; leave it out")
        super().write(prediction, stem)


def folder_names(classes: Sequence[str]) -> list[str]:
    """Names for folders of classes that every system takes, each of its own."""
    names: dict[str, str] = {}
    for index, given in enumerate(classes):
        name = re.sub(r"[^\w .()+-]+", "_", given)[:LONGEST].strip(" .") or f"class_{index}"
        name = f"_{name}" if _RESERVED.match(name) else name
        while name.lower() in names:
            name = f"{name}_{index}"
        names[name.lower()] = name
    return list(names.values())
