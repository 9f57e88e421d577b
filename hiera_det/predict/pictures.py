"""A picture of each image that is predicted, and of a video a folder of them or another video."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from hiera_det.data import image_folder
from hiera_det.data.camera import camera_number
from hiera_det.data.video import VIDEO_SUFFIXES, frame_rate
from hiera_det.errors import InputError
from hiera_det.files import write_atomically
from hiera_det.predict.prediction import Prediction
from hiera_det.predict.video_file import VideoFile

__all__ = ["Pictures", "distinct_stems", "is_stream"]


def is_stream(file: str) -> bool:
    """Whether a file's name ends like a video's, or is a camera's."""
    return file.lower().endswith(VIDEO_SUFFIXES) or camera_number(file) is not None


def distinct_stems(files: Sequence[str]) -> list[str]:
    """Names for what is written of files, see `hiera_det.data.image_folder.distinct_stems`."""
    return image_folder.distinct_stems(_plain(files))


def _plain(files: Sequence[str]) -> list[str]:
    """Names without a camera's colon, which Windows does not take."""
    return [file if camera_number(file) is None else file.replace(":", "_") for file in files]


class Pictures:
    """Writes pictures into a folder.

    Args:
        files: that are predicted.
        folder: made where it is not there.
        overwrite: replace those of an earlier run.
        as_video: of a video, write another video in the place of a folder of frames.

    Raises:
        InputError: the folder is the images' own, cannot be written, or has such pictures already.
    """

    def __init__(self, files: Sequence[str], folder: str, overwrite: bool, as_video: bool) -> None:
        places = image_folder.output_paths(_plain(files), folder, overwrite=overwrite)
        self._places = {
            file: Path(place).with_suffix("") if is_stream(file) else Path(place)
            for file, place in zip(files, places, strict=True)
        }
        self._as_video, self._begun, self._rate = as_video, 0.0, 0.0
        self._video: VideoFile | None = None
        if not overwrite:
            self._check_streams()

    def _check_streams(self) -> None:
        """Refuse folders of a video's frames that hold something, and videos that are there."""
        for place in (self._place_of(file) for file in self._places if is_stream(file)):
            if place.exists() and not (place.is_dir() and not any(place.iterdir())):
                raise InputError(f"{place}: is there already; name another folder, or use --overwrite")

    def _place_of(self, file: str) -> Path:
        """Of a video, its folder or file."""
        place = self._places[file]
        return place.with_name(f"{place.name}.mp4") if self._as_video else place

    def add(self, prediction: Prediction, picture: Image.Image) -> None:
        """Write the picture of a prediction; a video's is kept until `finish`.

        Raises:
            WriteError: it cannot be written.
        """
        place = self._places[prediction.file]
        if prediction.frame is not None:
            if self._as_video:
                self._add_frame(prediction, picture)
                return
            place = place / f"{prediction.frame:06d}.jpg"
            place.parent.mkdir(exist_ok=True)
        write_atomically(place, partial(picture.save, format="JPEG", quality=90), durable=False)

    def _add_frame(self, prediction: Prediction, picture: Image.Image) -> None:
        """A camera's frames are shown when they came, a video's at its own speed."""
        is_camera = camera_number(prediction.file) is not None
        if self._video is None:
            self._video = VideoFile(self._place_of(prediction.file))
            self._begun, self._rate = time.monotonic(), 0.0 if is_camera else frame_rate(prediction.file)
        assert prediction.frame is not None
        second = time.monotonic() - self._begun if is_camera else prediction.frame / self._rate
        self._video.add(picture, second)

    def finish(self) -> None:
        """Write the video that has ended."""
        video, self._video = self._video, None
        if video:
            video.write()
