"""What every detector on images can do, whatever framework it is of: `FilePredictor`."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from hiera_det.data.camera import camera_number, read_camera
from hiera_det.data.memory import ImageLike, is_one_image
from hiera_det.data.video import read_frames
from hiera_det.errors import InputError
from hiera_det.files import StrPath, path_of
from hiera_det.predict.prediction import Prediction

__all__ = ["FilePredictor", "paths_of"]


class FilePredictor(ABC):
    """A trained detector with its classes, for images of any size in files, videos and memory.

    Attributes:
        categories: the classes in the order of their indices, ``{"id": id in the training JSON, "name": name}``; empty
            where they are not known.
    """

    categories: list[dict[str, Any]]

    @abstractmethod
    def predict_files(
        self, files: StrPath | Sequence[StrPath], unreadable: Callable[[str, str], None] | None = None
    ) -> Iterator[Prediction]:
        """Predict image files.

        Args:
            files: a path or several; see `hiera_det.data.images` for what is read and how.
            unreadable: called with the path of a file that cannot be read, or whose prediction fails for lack of
                memory or the like, and the reason, half a sentence; without it the first such file raises.

        Returns:
            one prediction for each file that can be read.

        Raises:
            InputError: a file cannot be read, and ``unreadable`` is not given.
        """

    @abstractmethod
    def predict_images(self, images: Sequence[ImageLike]) -> Sequence[Prediction]:
        """Predict images in memory, see `hiera_det.data.memory`; predictions in their order.

        Raises:
            InputError: an image cannot be used; its place, shape and type are named.
        """

    def predict(self, images: Any) -> Any:
        """Predict one image or several, each a path, a PIL image, an array or a tensor.

        Returns:
            a `Prediction` of one image; a list in their order of several, also of an array or tensor of several.

        Raises:
            InputError: an image cannot be read or used.
        """
        if is_one_image(images):
            return self.predict([images])[0]
        if not isinstance(images, Iterable):
            raise InputError(f"images: {type(images).__name__}; give a path, a PIL image, an array or several of them")
        images = list(images)
        names = {i: path_of(one, "images") for i, one in enumerate(images) if isinstance(one, str | os.PathLike)}
        others = [one for i, one in enumerate(images) if i not in names]
        in_memory = iter(self.predict_images(others) if others else ())
        of_file = {one.file: one for one in self.predict_files(list(dict.fromkeys(names.values())))}
        return [of_file[names[i]] if i in names else next(in_memory) for i in range(len(images))]

    def predict_video(self, file: StrPath, every: int = 1) -> Iterator[Prediction]:
        """Predict the frames of a video or camera, one after the other.

        Args:
            file: a video that PyAV reads, or ``webcam:0`` for a camera, by its number.
            every: take each ``every``-th frame, the first among them.

        Returns:
            a prediction for each frame taken; its ``file`` is the video's path, its ``frame`` the number from 0.

        Raises:
            InputError: PyAV is not installed, or the file is no video or damaged; or there is no such camera.
        """
        name = path_of(file, "file")
        if type(every) is not int or every < 1:
            raise InputError(f"every {every!r}: give 1 for each frame of a video, or a larger whole number")
        frames = read_frames(name, every) if camera_number(name) is None else read_camera(name, every)
        for number, frame in frames:
            (prediction,) = self.predict_images([Image.fromarray(frame)])
            yield replace(prediction, file=name, frame=number)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in the order of their indices; empty where they are not known."""
        return [category["name"] for category in self.categories]

    def draw(self, prediction: Prediction) -> Image.Image:
        """The image with masks, boxes, class names and scores."""
        return prediction.draw()

    def coco_results(self, prediction: Prediction, image_id: Any) -> list[dict[str, Any]]:
        """See `Prediction.coco_results`."""
        return prediction.coco_results(image_id)


def paths_of(files: Any) -> list[str]:
    """A path or several as texts.

    Raises:
        InputError: they are no paths.
    """
    if isinstance(files, str | bytes | os.PathLike):
        return [path_of(files, "files")]
    # An array iterates too.
    if not isinstance(files, Iterable) or hasattr(files, "shape"):
        raise InputError(f"files: {type(files).__name__}; give a path or several; images in memory go to predict()")
    return [path_of(file, f"files[{index}]") for index, file in enumerate(files)]
