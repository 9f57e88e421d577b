"""A trained classifier, ready for image and video files."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hiera_det.data.bad_images import BadImages
from hiera_det.data.classes import listed, match_classes
from hiera_det.data.image_folder import SUFFIXES, find_class_folders, find_files_below
from hiera_det.data.images import MAX_PIXELS
from hiera_det.data.video import VIDEO_SUFFIXES
from hiera_det.engine.machine import workers_by_cores
from hiera_det.errors import InputError, printable
from hiera_det.files import StrPath
from hiera_det.tasks.batches import eval_loader, samples_of
from hiera_det.tasks.classify.loss import Accuracy, evaluate
from hiera_det.tasks.transforms import check_image_size, evaluated_reader
from hiera_det.weights.model_file import ModelFile, load_classifier

__all__ = ["Classified", "Classifier", "read_class_names"]


@dataclass(frozen=True)
class Classified:
    """The best guesses for one file.

    Attributes:
        file: its path.
        classes: indices, the best first.
        names: their names; the indices in words where there are no names.
        probabilities: of each, from 0 to 1.
    """

    file: str
    classes: tuple[int, ...]
    names: tuple[str, ...]
    probabilities: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON."""
        rows = zip(self.classes, self.names, self.probabilities, strict=True)
        best = [{"class": index, "name": name, "probability": round(p, 6)} for index, name, p in rows]
        return {"file": self.file, "predictions": best}


def read_class_names(path: str) -> tuple[str, ...]:
    """Names of classes from a text file, one a line, in the order of their indices.

    Raises:
        InputError: it cannot be read, or a line is empty.
    """
    try:
        names = tuple(line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise InputError(
            f"--classes {path}: cannot be read ({reason}); give a text file with a name per line"
        ) from None
    for number, name in enumerate(names, start=1):
        if not name:
            raise InputError(f"--classes {path}: line {number} is empty; give a name per line")
    return names


def _check_renamed(file: ModelFile, classes: Sequence[str]) -> None:
    """Refuse names that would give a class of the file the name of another of its classes.

    Raises:
        InputError: the first such name.
    """
    for place, row in enumerate(match_classes(file.classes, classes).rows):
        if row is not None and row != place:
            raise InputError(
                f"--classes: class {place} is {classes[place]!r}, which is class {row} in {file.source}; "
                f"leave it out, or give new names in its order: {listed(file.classes)}"
            )


class Classifier:
    """A model of a file with its classes.

    Args:
        weights: a classifier's file, of this project or published, for images or for clips.
        device: "cuda" or "cpu".
        image_size: side of the images or crops; 0 for the one that the model was trained at.
        classes: names in the order of the indices; empty for those in the file.
        stride: of clips, see `hiera_det.data.video.read_views`.
        views: of clips, crops and clips, as there.
        max_pixels: of an image, see `hiera_det.data.images`.
        bad_images: what becomes of images that `evaluate` cannot read; None to refuse them.

    Raises:
        InputError: the file is no classifier's, or the names are not as many as its classes, or those of others of
            them.
    """

    def __init__(
        self,
        weights: StrPath,
        device: str = "cpu",
        image_size: int = 0,
        classes: Sequence[str] = (),
        stride: float = 4,
        views: tuple[int, int] = (3, 5),
        max_pixels: int = MAX_PIXELS,
        bad_images: BadImages | None = None,
    ) -> None:
        self.model, file = load_classifier(weights)
        size = image_size or file.image_size
        check_image_size(size)
        self.device, self.image_size, self.stride, self.views = torch.device(device), size, stride, views
        self.model.to(self.device)
        self._reader = evaluated_reader(size, self.frames, stride, views)
        self._reader.with_limits(max_pixels, bad_images or BadImages())
        self.classes = tuple(classes) or file.classes
        _check_renamed(file, self.classes)
        if self.classes and len(self.classes) != self.model.num_classes:
            raise InputError(
                f"--classes: names {len(self.classes)} classes, and {weights} has {self.model.num_classes}; "
                "give a name for each"
            )

    @property
    def frames(self) -> int:
        """Frames of the clips that it takes; 0 for images."""
        return self.model.frames

    def find(self, inputs: Sequence[str]) -> list[str]:
        """The files that some files and folders stand for, images or videos as the model takes them.

        Raises:
            InputError: an input is not there, holds none, or is of the other kind.
        """
        suffixes, other = (VIDEO_SUFFIXES, SUFFIXES) if self.frames else (SUFFIXES, VIDEO_SUFFIXES)
        files = []
        for name in inputs:
            if os.path.isdir(name):
                files += find_files_below(name, suffixes, "videos" if self.frames else "images")
            elif not os.path.isfile(name):
                raise InputError(f"{name}: no such file or folder")
            elif name.lower().endswith(other):
                kinds = ("an image", "clips") if self.frames else ("a video", "images")
                raise InputError(f"{name}: is {kinds[0]}, and the model takes {kinds[1]}; give weights for it")
            else:
                files.append(name)
        return files

    def classify(
        self, files: Sequence[str], topk: int = 5, unreadable: Callable[[str, str], None] | None = None
    ) -> Iterator[Classified]:
        """The best guesses for each file; of a video, the mean probabilities over its views.

        Args:
            files: images, or videos where the model takes clips.
            topk: guesses per file.
            unreadable: called with a file that cannot be read and the reason; without it the first such file raises.

        Raises:
            InputError: ``topk`` is below 1; or a file cannot be read, and ``unreadable`` is not given.
        """
        if topk < 1:
            raise InputError(f"--topk {topk}: must be at least 1")
        for file in files:
            try:
                views = self._views(file)
            except InputError as error:
                if unreadable is None:
                    raise
                unreadable(file, str(error).removeprefix(f"{printable(file)}: "))
            else:
                yield self._guesses(file, views, topk)

    def _views(self, file: str) -> Tensor:
        """What the model is given of a file: ``[V, ...]``, one view of an image, several of a video."""
        return self._reader.read(file) if self.frames else self._reader.read(file)[None]

    def _guesses(self, file: str, views: Tensor, topk: int) -> Classified:
        """The best of the mean probabilities over the views."""
        # One view at a time: fifteen clips of a large model would not fit many a GPU.
        with torch.inference_mode():
            found = [self.model(view[None].to(self.device)).float().softmax(dim=1) for view in views]
        best = torch.cat(found).mean(dim=0).topk(min(topk, self.model.num_classes))
        indices = tuple(best.indices.tolist())
        names = tuple(self.classes[index] if self.classes else str(index) for index in indices)
        return Classified(file, indices, names, tuple(best.values.tolist()))

    def evaluate(self, folder: str, batch_size: int = 64, workers: int | None = 0, progress: bool = True) -> Accuracy:
        """Accuracy on a folder of class folders.

        They are taken for the classes of the same names, where these are known, else in the order of the names, as
        ImageNet's are.

        Raises:
            InputError: the classes are not the model's, or a file cannot be read.
        """
        kind = (VIDEO_SUFFIXES, "videos") if self.frames else (SUFFIXES, "images")
        found = find_class_folders(folder, self.classes, *kind)
        if len(found.classes) != self.model.num_classes:
            raise InputError(
                f"{folder}: has {len(found.classes)} classes, and the model {self.model.num_classes}, whose names are "
                "not known; give --classes FILE"
            )
        samples = samples_of(found.files, self._reader, found.labels, replace=False)
        workers = workers_by_cores(workers, "workers")
        at_once = max(1, batch_size // math.prod(self.views)) if self.frames else batch_size
        return evaluate(self.model, eval_loader(samples, at_once, workers, False), self.device, progress)
