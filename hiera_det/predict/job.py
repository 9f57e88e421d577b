"""Prediction of many files: pictures, tables and cut-outs of all that was found, whatever happens on the way."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from hiera_det.data.camera import camera_number
from hiera_det.data.classes import same_classes_order
from hiera_det.errors import InputError, printable
from hiera_det.extras import need
from hiera_det.files import make_folder
from hiera_det.predict.cutouts import CutOuts, SavedMasks
from hiera_det.predict.image_ids import read_images_json
from hiera_det.predict.pictures import Pictures, distinct_stems, is_stream
from hiera_det.predict.prediction import Prediction
from hiera_det.predict.predictor import FilePredictor
from hiera_det.predict.results_file import ResultsFile

__all__ = ["JobSettings", "PredictionJob"]

logger = logging.getLogger("hiera_det.predict")


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """What a prediction writes.

    Attributes:
        pictures: folder for the pictures; "" for none. A video's frames go into a folder of its name in it.
        results: the JSON, see `ResultsFile`; "" for none.
        table: the CSV, see there; "" for none.
        crops: folder for the objects, see `CutOuts`; "" for none.
        masks: folder for their masks; "" for none.
        images_json: COCO JSON that image and category ids are taken from; "" to count the files from 1.
        overwrite: replace what an earlier run has written.
        every: of a video or camera, take each ``every``-th frame.
        frames: most that are taken of one; 0 for all.
        save_video: of a video, write a video in the place of a picture of each frame.
        skip: leave out files that cannot be read, with a line each; otherwise the first ends the job.
    """

    pictures: str = ""
    results: str = ""
    table: str = ""
    crops: str = ""
    masks: str = ""
    images_json: str = ""
    overwrite: bool = False
    every: int = 1
    frames: int = 0
    save_video: bool = False
    skip: bool = True


class PredictionJob:
    """Files to predict, checked before a model is built.

    Args:
        files: images, videos and cameras.
        settings: what is written.

    Attributes:
        failed: files that could not be read or predicted, or whose picture could not be drawn, and why.
        images: how many were predicted, frames among them.
        objects: how many were found.

    Raises:
        InputError: something is not there, cannot be written, or is there already.
    """

    def __init__(self, files: Sequence[str], settings: JobSettings) -> None:
        self.files, self.settings = files, settings
        self.failed: dict[str, str] = {}
        self.images = self.objects = 0
        self._check_videos()
        self._ids, self._categories = _image_ids(files, settings.images_json)
        self._frames = len(files)  # frames are counted on from the files
        self._pictures = self._build_pictures()
        self._stems = dict(zip(files, distinct_stems(files), strict=True))
        cut = {CutOuts: settings.crops, SavedMasks: settings.masks}
        self._cut = [kind(folder, files, settings.overwrite) for kind, folder in cut.items() if folder]
        beside = str(ResultsFile.beside(settings.results)) if settings.results else ""
        read = [*files, settings.images_json]
        for flag, path in (("--json", settings.results), ("--json", beside), ("--csv", settings.table)):
            if path:
                _check_place(flag, path, read, settings.overwrite)
                read.append(path)

    def _check_videos(self) -> None:
        """Refuse videos that cannot be read, numbered or drawn."""
        streams = [file for file in self.files if is_stream(file)]
        if self.settings.save_video and not (streams and self.settings.pictures):
            raise InputError("--save-video: give a video as --input, and --output DIR for it")
        if not streams:
            return
        for file in streams:
            if camera_number(file) is None:
                need("av", "reading videos")
        if self.settings.every < 1:
            raise InputError(f"--every {self.settings.every}: give 1 for each frame of a video, or more")
        if self.settings.frames < 0:
            raise InputError(f"--frames {self.settings.frames}: give 1 or more; leave it out for all")
        if self.settings.images_json:
            raise InputError(f"{streams[0]}: frames of a video have no ids in --images-json; leave one of them out")

    def _build_pictures(self) -> Pictures | None:
        given = self.settings
        return Pictures(self.files, given.pictures, given.overwrite, given.save_video) if given.pictures else None

    def run(self, predictor: FilePredictor, done: Callable[[], object] = lambda: None) -> None:
        """Predict all files; what was found is written even where this ends early.

        Args:
            predictor: the detector.
            done: called after each file.

        Raises:
            InputError: a file cannot be read and is not to be skipped, or the results cannot be written.
        """
        if self._categories:
            predictor.categories = _renumbered(predictor.categories, self._categories, self.settings.images_json)
        results = None
        if self.settings.results or self.settings.table:
            results = ResultsFile(self.settings.results, predictor.categories, self.settings.table)
        try:
            images = [file for file in self.files if not is_stream(file)]
            leave_out = partial(self._leave_out, results, done)
            for prediction in predictor.predict_files(images, leave_out if self.settings.skip else None):
                self._take(predictor, prediction, results)
                done()
            for file in filter(is_stream, self.files):
                self._run_stream(predictor, file, results, done)
        finally:
            if results:
                results.write()

    def _run_stream(
        self, predictor: FilePredictor, file: str, results: ResultsFile | None, done: Callable[[], object]
    ) -> None:
        """Predict the frames of a video or camera; Ctrl-C ends a camera's, which have no end of their own."""
        try:
            for prediction in islice(predictor.predict_video(file, self.settings.every), self.settings.frames or None):
                self._take(predictor, prediction, results)
            done()
        except InputError as error:
            if not self.settings.skip:
                raise
            self._leave_out(results, done, file, str(error).removeprefix(f"{printable(file)}: "))
        except KeyboardInterrupt:
            if camera_number(file) is None:
                raise
            logger.info("%s: stopped", file)
        finally:
            if self._pictures:
                self._pictures.finish()

    def _leave_out(self, results: ResultsFile | None, done: Callable[[], object], file: str, reason: str) -> None:
        """Note a file that cannot be read."""
        self.failed[file] = reason
        logger.warning("warning: %s: %s, left out", printable(file), reason)
        if results:
            results.add({"id": self._ids[file], "file_name": file, "error": reason}, [])
        done()

    def _take(self, predictor: FilePredictor, prediction: Prediction, results: ResultsFile | None) -> None:
        """Draw, cut out and note what was found in one image."""
        self.images += 1
        self.objects += len(prediction)
        image: dict[str, Any] = {"id": self._ids[prediction.file], "file_name": prediction.file}
        stem = self._stems[prediction.file]
        if prediction.frame is not None:
            self._frames += 1
            image |= {"id": self._frames, "frame": prediction.frame}
            stem = f"{stem}_{prediction.frame:06d}"
        self._draw(predictor, prediction)
        for cut in self._cut:
            cut.write(prediction, stem)
        if results:
            height, width = prediction.image.shape[:2]
            found = predictor.coco_results(prediction, image["id"])
            results.add(image | {"width": width, "height": height, "objects": len(found)}, found)
            results.save()

    def _draw(self, predictor: FilePredictor, prediction: Prediction) -> None:
        """Write a picture; one that cannot be drawn costs a line."""
        if self._pictures is None:
            return
        try:
            self._pictures.add(prediction, predictor.draw(prediction))
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


def _check_place(flag: str, path: str, files: Sequence[str], overwrite: bool) -> None:
    """Refuse a file for the results that is an image, a folder, or there already."""
    if os.path.realpath(path) in {os.path.realpath(file) for file in files} or os.path.isdir(path):
        raise InputError(f"{flag} {path}: is read or written otherwise, or is a folder; name another file")
    if os.path.exists(path) and not overwrite:
        raise InputError(f"{flag} {path}: is there already; name another file, or use --overwrite")
    make_folder(os.path.dirname(path) or ".")
