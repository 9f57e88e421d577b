"""Prediction of many files: a picture of each and a JSON of all that was found, whatever happens on the way."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hiera_det.d2.predict.image_ids import read_images_json
from hiera_det.d2.predict.predictor import Prediction, Predictor
from hiera_det.d2.predict.results_file import ResultsFile
from hiera_det.data.classes import same_classes_order
from hiera_det.data.image_folder import output_paths
from hiera_det.data.video import VIDEO_SUFFIXES
from hiera_det.errors import InputError, printable
from hiera_det.extras import need
from hiera_det.files import make_folder, write_atomically

__all__ = ["JobSettings", "PredictionJob", "is_video"]

logger = logging.getLogger("hiera_det.predict")


def is_video(file: str) -> bool:
    """Whether a file's name ends like a video's."""
    return file.lower().endswith(VIDEO_SUFFIXES)


@dataclass(frozen=True)
class JobSettings:
    """What a prediction writes.

    Attributes:
        pictures: folder for the pictures; "" for none. A video's frames go into a folder of its name in it.
        results: the JSON, see `ResultsFile`; "" for none.
        images_json: COCO JSON that image and category ids are taken from; "" to count the files from 1.
        overwrite: replace what an earlier run has written.
        every: of a video, take each ``every``-th frame.
        skip: leave out files that cannot be read, with a line each; otherwise the first ends the job.
    """

    pictures: str = ""
    results: str = ""
    images_json: str = ""
    overwrite: bool = False
    every: int = 1
    skip: bool = True


class PredictionJob:
    """Files to predict, checked before a model is built.

    Args:
        files: images and videos.
        settings: what is written.

    Attributes:
        failed: files that could not be read or predicted, or whose picture could not be drawn, and why.
        objects: how many were found.

    Raises:
        InputError: something is not there, cannot be written, or is there already.
    """

    def __init__(self, files: Sequence[str], settings: JobSettings) -> None:
        self.files, self.settings = files, settings
        self.failed: dict[str, str] = {}
        self.objects = 0
        self._check_videos()
        self._ids, self._categories = _image_ids(files, settings.images_json)
        self._frames = len(files)  # frames are counted on from the files
        self._places: dict[str, str] = {}
        if settings.pictures:
            places = output_paths(files, settings.pictures, overwrite=settings.overwrite)
            self._places = dict(zip(files, places, strict=True))
            self._check_frames()
        if settings.results:
            for path in (settings.results, str(ResultsFile.beside(settings.results))):
                _check_place(path, (*files, settings.images_json), settings.overwrite)

    def _check_videos(self) -> None:
        """Refuse videos that cannot be read, numbered or drawn."""
        videos = [file for file in self.files if is_video(file)]
        if not videos:
            return
        need("av", "reading videos")
        if self.settings.every < 1:
            raise InputError(f"--every {self.settings.every}: give 1 for each frame of a video, or more")
        if self.settings.images_json:
            raise InputError(f"{videos[0]}: frames of a video have no ids in --images-json; leave one of them out")

    def _check_frames(self) -> None:
        """Refuse folders of a video's frames that hold something."""
        for folder in (Path(place).with_suffix("") for file, place in self._places.items() if is_video(file)):
            if folder.exists() and not self.settings.overwrite and not (folder.is_dir() and not any(folder.iterdir())):
                raise InputError(f"{folder}: is there already; name another folder, or use --overwrite")

    def run(self, predictor: Predictor, done: Callable[[], object] = lambda: None) -> None:
        """Predict all files; what was found is written even where this ends early.

        Args:
            predictor: the detector.
            done: called after each file.

        Raises:
            InputError: a file cannot be read and is not to be skipped, or the results cannot be written.
        """
        if self._categories:
            predictor.categories = _renumbered(predictor.categories, self._categories, self.settings.images_json)
        results = ResultsFile(self.settings.results, predictor.categories) if self.settings.results else None
        try:
            for prediction in self._predictions(predictor, results, done):
                self._take(predictor, prediction, results)
                if results:
                    results.save()
        finally:
            if results:
                results.write()

    def _predictions(
        self, predictor: Predictor, results: ResultsFile | None, done: Callable[[], object]
    ) -> Iterator[Prediction]:
        """Of the images first, then of the videos."""
        images = [file for file in self.files if not is_video(file)]
        leave_out = partial(self._leave_out, results, done) if self.settings.skip else None
        for prediction in predictor.predict_files(images, leave_out):
            yield prediction
            done()
        for file in filter(is_video, self.files):
            try:
                yield from predictor.predict_video(file, self.settings.every)
                done()
            except InputError as error:
                if leave_out is None:
                    raise
                leave_out(file, str(error).removeprefix(f"{printable(file)}: "))

    def _leave_out(self, results: ResultsFile | None, done: Callable[[], object], file: str, reason: str) -> None:
        """Note a file that cannot be read."""
        self.failed[file] = reason
        logger.warning("warning: %s: %s, left out", printable(file), reason)
        if results:
            results.add({"id": self._ids[file], "file_name": file, "error": reason}, [])
        done()

    def _take(self, predictor: Predictor, prediction: Prediction, results: ResultsFile | None) -> None:
        """Draw and note what was found in one image."""
        self.objects += len(prediction.instances)
        image: dict[str, Any] = {"id": self._ids[prediction.file], "file_name": prediction.file}
        place = Path(self._places[prediction.file]) if self._places else None
        if prediction.frame is not None:
            self._frames += 1
            image |= {"id": self._frames, "frame": prediction.frame}
            place = place and place.with_suffix("") / f"{prediction.frame:06d}.jpg"
        if place:
            self._draw(predictor, prediction, place)
        if results:
            height, width = prediction.image.shape[:2]
            found = predictor.coco_results(prediction, image["id"])
            results.add(image | {"width": width, "height": height, "objects": len(found)}, found)

    def _draw(self, predictor: Predictor, prediction: Prediction, place: Path) -> None:
        """Write a picture; one that cannot be drawn costs a line."""
        try:
            picture = predictor.draw(prediction)
            place.parent.mkdir(exist_ok=True)
            write_atomically(place, partial(picture.save, format="JPEG", quality=90), durable=False)
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            self.failed.setdefault(prediction.file, f"no picture: {error}")
            logger.warning("warning: %s: its picture cannot be drawn (%s)", printable(prediction.file), error)


def _image_ids(files: Sequence[str], images_json: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ids of the files, and the JSON's categories; counted from 1 and none where there is no JSON."""
    if not images_json:
        return {file: number for number, file in enumerate(files, start=1)}, []
    by_name, categories = read_images_json(images_json)
    ids = {file: by_name.of_file(file) for file in files}
    missing = next((file for file, id_ in ids.items() if id_ is None), None)
    if missing:
        raise InputError(f"{missing}: is none of the images of {images_json}; give their folder as --input, or no JSON")
    return ids, categories


def _renumbered(own: Sequence[dict[str, Any]], theirs: list[dict[str, Any]], path: str) -> list[dict[str, Any]]:
    """The model's classes with the ids that a JSON gives their names."""
    if not own:
        logger.info("the weights do not name their classes: taken for those of %s in the order of their ids", path)
        return theirs
    names = [category["name"] for category in own]
    order = same_classes_order(names, [category["name"] for category in theirs], "the detector", path)
    return [theirs[index] for index in order]


def _check_place(path: str, files: Sequence[str], overwrite: bool) -> None:
    """Refuse a file for the results that is an image, a folder, or there already."""
    if os.path.realpath(path) in {os.path.realpath(file) for file in files} or os.path.isdir(path):
        raise InputError(f"--json {path}: is read, or is a folder; name another file")
    if os.path.exists(path) and not overwrite:
        raise InputError(f"--json {path}: is there already; name another file, or use --overwrite")
    make_folder(os.path.dirname(path) or ".")
