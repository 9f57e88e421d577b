"""A trained detector, ready for images: `Predictor`.

Letters in shapes: N objects of one image, H and W its height and width.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import build_model
from detectron2.structures import Instances
from PIL import Image
from torch import nn

from hiera_det.d2.config.load import load_config
from hiera_det.d2.data.batches import check_test_batch, make_batches, model_input, padded_size
from hiera_det.d2.data.datasets import dataset_categories
from hiera_det.d2.data.pixels import ImageLike, Pixels, as_pixels, read_pixels
from hiera_det.d2.model.across_classes import as_tested
from hiera_det.d2.predict.pictures import predicted_objects
from hiera_det.d2.predict.precision import autocast, check_autocast
from hiera_det.d2.train.checkpoint import HieraCheckpointer, last_checkpoint, local_weights
from hiera_det.data.images import BadImageError, StrPath, read_header
from hiera_det.data.video import read_frames
from hiera_det.engine.checkpoint import BEST, FINAL
from hiera_det.engine.opts import Opts, pairs_of
from hiera_det.errors import InputError, printable
from hiera_det.files import path_of
from hiera_det.report.drawing import draw_objects
from hiera_det.report.threshold import read_threshold

__all__ = ["Prediction", "Predictor", "weights_in"]

logger = logging.getLogger("hiera_det.predict")


@dataclass(frozen=True)
class Prediction:
    """What was found on one image.

    Attributes:
        file: the image's path.
        image: its pixels ``[H, W, 3]``, RGB, 0-255, upright.
        instances: detectron2's, on the CPU, the best score first: ``pred_boxes`` (XYXY in the image's pixels),
            ``scores``, ``pred_classes`` (indices) and, with masks, ``pred_masks`` ``[N, H, W]``, with keypoints
            ``pred_keypoints`` ``[N, K, 3]`` (x, y, score).
        frame: its number in a video, from 0; None for an image.
    """

    file: str
    image: npt.NDArray[np.uint8]
    instances: Instances
    frame: int | None = None


class Predictor:
    """A trained detector with its classes, for images of any size.

    Images are resized by ``INPUT`` as for evaluation and predicted ``TEST.IMS_PER_BATCH`` at a time, those of like
    size together, in the number format of ``TEST.AUTOCAST``, and augmented as ``TEST.AUG`` says. Without a GPU it runs
    on the CPU, whatever ``MODEL.DEVICE`` says.

    Args:
        cfg: the config that the detector was trained with.
        weights: its file; "" for ``MODEL.WEIGHTS``.
        threshold: objects of lower scores are left out.

    Attributes:
        cfg: the config as used.
        model: the detector, in eval mode.
        categories: the classes in the order of their indices, ``{"id": id in the training JSON, "name": name}``; as
            saved with the weights, else those of the registered data set that ``DATASETS`` names, else empty.

    Raises:
        InputError: there are no weights, they do not fit the config, or a setting cannot be used.

    Example:
        predictor = Predictor.from_folder("output/mine")
        for number, prediction in enumerate(predictor.predict_files(["a.jpg", "b.png"])):
            predictor.draw(prediction).save(f"drawn_{number}.png")
    """

    def __init__(self, cfg: CfgNode, weights: StrPath = "", threshold: float = 0.5) -> None:
        _check_arguments(cfg, weights, threshold)
        self.cfg = cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = local_weights(os.fspath(weights) or cfg.MODEL.WEIGHTS)
        if not cfg.MODEL.WEIGHTS:
            raise InputError("MODEL.WEIGHTS is empty: give a trained detector's file, such as output/model_final.pth")
        if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
            logger.info("no GPU here: MODEL.DEVICE is set to cpu")
            cfg.MODEL.DEVICE = "cpu"
        check_test_batch(cfg)
        check_autocast(cfg)
        # What scores less would not change the rest, and is not given a mask this way.
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.MODEL.RETINANET.SCORE_THRESH_TEST = threshold
        self.model = build_model(cfg).eval()
        self._detect = as_tested(cfg, self.model).eval()
        saved = HieraCheckpointer(self.model).load_detector(cfg.MODEL.WEIGHTS)
        self.categories: list[dict[str, Any]] = saved.get("categories") or _registered_categories(cfg)

    @classmethod
    def from_folder(cls, folder: StrPath, opts: Opts = (), threshold: float | None = None) -> Predictor:
        """The detector that a training left in its ``OUTPUT_DIR``.

        Args:
            folder: holds ``config.yaml`` and weights: ``model_best.pth`` where it is kept, else ``model_final.pth``; of
                a training that has not ended, the last checkpoint.
            opts: keys and values over the config's, as a dict or in turn; ``MODEL.WEIGHTS`` names another checkpoint.
            threshold: objects of lower scores are left out; None for the best at the weights' evaluation.

        Raises:
            InputError: one of the two files is not there, or see `Predictor`.
        """
        folder, opts = path_of(folder, "folder"), pairs_of(opts)
        config = Path(folder) / "config.yaml"
        if Path(folder).is_file():
            raise InputError(f"{folder}: is a file; give the folder that it is in, the OUTPUT_DIR of a training")
        if not config.is_file():
            raise InputError(f"{folder}: there is no config.yaml; give the OUTPUT_DIR of a training")
        cfg = load_config(config, opts)
        weights = "" if "MODEL.WEIGHTS" in opts else weights_in(folder)
        return cls(cfg, weights, read_threshold(folder, weights).score if threshold is None else threshold)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in the order of their indices; empty where they are not known."""
        return [category["name"] for category in self.categories]

    def __call__(self, images: Sequence[ImageLike]) -> list[Instances]:
        """Predict images that are already read.

        Args:
            images: arrays ``[H, W, 3]`` with channels in the order of ``INPUT.FORMAT`` (RGB in this project's configs),
                or grey ``[H, W]``, or with alpha ``[H, W, 4]``; PIL images; tensors ``[3, H, W]``. Each of its own size
                and of any number type, see `hiera_det.data.images.to_8_bits`.

        Returns:
            detectron2's ``Instances`` of each, in the images' order; see `Prediction`.

        Raises:
            InputError: an image cannot be used; its place, shape and type are named.
        """
        pixels = as_pixels(images, self.cfg.INPUT.FORMAT)
        found: dict[int, Instances] = {}
        sizes = [padded_size(self.cfg, *image.shape[:2]) for image in pixels]
        for batch in make_batches(sizes, self.cfg.TEST.IMS_PER_BATCH):
            found |= zip(batch, self._predict_batch([pixels[index] for index in batch]), strict=True)
        return [found[index] for index in range(len(pixels))]

    def predict_files(
        self, files: StrPath | Sequence[StrPath], unreadable: Callable[[str, str], None] | None = None
    ) -> Iterator[Prediction]:
        """Predict image files, a batch at a time.

        Args:
            files: a path or several; see `hiera_det.data.images` for what is read and how.
            unreadable: called with the path of a file that cannot be read, or whose prediction fails for lack of
                memory or the like, and the reason, half a sentence; without it the first such file raises.

        Returns:
            one prediction for each file that can be read; in the files' order where ``TEST.IMS_PER_BATCH`` is 1,
            otherwise by size.

        Raises:
            InputError: a file cannot be read, and ``unreadable`` is not given.
        """
        names = _paths(files)
        report = _Report(unreadable)
        readable, sizes, transparent = [], [], 0
        for name in names:
            with report.of(name):
                header = read_header(name, self.cfg.INPUT.MAX_PIXELS)
                sizes.append(padded_size(self.cfg, header.height, header.width))
                readable.append(name)
                transparent += header.is_transparent
        if transparent:
            logger.info("%d of %d images have an alpha channel: laid on white", transparent, len(names))
        for batch in make_batches(sizes, self.cfg.TEST.IMS_PER_BATCH):
            images: list[tuple[str, Pixels]] = []
            for index in batch:
                with report.of(readable[index]):
                    pixels = read_pixels(readable[index], self.cfg.INPUT.FORMAT, self.cfg.INPUT.MAX_PIXELS)
                    images.append((readable[index], pixels))
            with report.of(*(name for name, _ in images)):
                yield from self._predictions(images)

    def predict_video(self, file: StrPath, every: int = 1) -> Iterator[Prediction]:
        """Predict the frames of a video, one after the other.

        Args:
            file: a video that PyAV reads.
            every: take each ``every``-th frame, the first among them.

        Returns:
            a prediction for each frame taken; its ``file`` is the video's path, its ``frame`` the number from 0.

        Raises:
            InputError: PyAV is not installed, or the file is no video or damaged.
        """
        name = path_of(file, "file")
        if type(every) is not int or every < 1:
            raise InputError(f"every {every!r}: give 1 for each frame of a video, or a larger whole number")
        for number, frame in read_frames(name, every):
            (prediction,) = self._predictions([(name, as_pixels([Image.fromarray(frame)], self.cfg.INPUT.FORMAT)[0])])
            yield replace(prediction, frame=number)

    def _predictions(self, images: Sequence[tuple[str, Pixels]]) -> Iterator[Prediction]:
        """Predictions of one batch of files' names and pixels."""
        found = self._predict_batch([pixels for _, pixels in images])
        for (name, pixels), instances in zip(images, found, strict=True):
            rgb = convert_image_to_rgb(pixels, self.cfg.INPUT.FORMAT).astype(np.uint8)
            yield Prediction(name, rgb, instances)

    def draw(self, prediction: Prediction) -> Image.Image:
        """The image with masks, boxes, class names and scores."""
        objects, _ = predicted_objects(prediction.instances, 0.0, self.class_names)
        return draw_objects(prediction.image, objects)

    def coco_results(self, prediction: Prediction, image_id: int) -> list[dict[str, Any]]:
        """The objects as COCO's results: ``image_id``, ``category_id``, ``bbox`` (XYWH), ``score``, ``segmentation``.

        ``file_name``, ``category_name`` and, of a video, ``frame`` are added. Category ids are those of the training
        JSON, where they are known, else indices.
        """
        instances = Instances(prediction.instances.image_size, **prediction.instances.get_fields())
        if instances.has("pred_keypoints"):  # which detectron2 moves in place, by half a pixel
            instances.pred_keypoints = instances.pred_keypoints.clone()
        results: list[dict[str, Any]] = instances_to_coco_json(instances, image_id)
        for result in results:
            index = result["category_id"]
            if index < len(self.categories):
                result["category_id"] = self.categories[index]["id"]
            name = self.class_names[index] if index < len(self.categories) else f"class {index}"
            result |= {"category_name": name, "file_name": prediction.file}
            if prediction.frame is not None:
                result["frame"] = prediction.frame
        return results

    def _predict_batch(self, images: Sequence[Pixels]) -> list[Instances]:
        """Predictions of one batch."""
        if not images:
            return []
        inputs = [
            {"image": model_input(self.cfg, image), "height": image.shape[0], "width": image.shape[1]}
            for image in images
        ]
        with torch.inference_mode(), autocast(self.cfg), _evaluating(self.model):
            outputs = self._detect(inputs)
        if "instances" not in outputs[0]:
            kind = self.cfg.MODEL.META_ARCHITECTURE
            raise InputError(
                f"MODEL.META_ARCHITECTURE {kind}: gives no objects; call the predictor's model for its maps"
            )
        return [output["instances"].to("cpu") for output in outputs]


def _check_arguments(cfg: Any, weights: Any, threshold: Any) -> None:
    """Refuse arguments of other types than `Predictor` takes."""
    if not isinstance(cfg, CfgNode):
        raise InputError(f"cfg: {type(cfg).__name__}; give a config, as of load_config, or use Predictor.from_folder")
    path_of(weights, "weights")
    if not isinstance(threshold, Real) or not 0.0 <= float(threshold) <= 1.0:
        raise InputError(f"threshold {threshold}: scores are from 0 to 1")


def _paths(files: Any) -> list[str]:
    """A path or several as texts."""
    if isinstance(files, str | bytes | os.PathLike):
        return [path_of(files, "files")]
    # An array iterates too.
    if not isinstance(files, Iterable) or hasattr(files, "shape"):
        raise InputError(f"files: {type(files).__name__}; give a path or several; images in memory go to predictor()")
    return [path_of(file, f"files[{index}]") for index, file in enumerate(files)]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """A model in evaluation mode, and afterwards as somebody has left it."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def weights_in(folder: str) -> str:
    """The weights that a training left: the best, else those of its end, else its last checkpoint.

    Raises:
        InputError: there are none.
    """
    for name in (BEST, FINAL):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            return path
    try:
        return last_checkpoint(folder)
    except InputError:
        raise InputError(
            f"{folder}: there is neither {BEST} nor {FINAL} nor another checkpoint; name a file by MODEL.WEIGHTS"
        ) from None


def _registered_categories(cfg: CfgNode) -> list[dict[str, Any]]:
    """The classes of the first data set of ``DATASETS`` that this process knows."""
    found = (dataset_categories(name) for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    return next((categories for categories in found if categories), [])


class _Report:
    """Passes on which files failed and why; without a listener the failure itself goes on."""

    def __init__(self, unreadable: Callable[[str, str], None] | None) -> None:
        self.unreadable = unreadable

    @contextmanager
    def of(self, *names: str) -> Iterator[None]:
        """What fails inside is the failure of these files."""
        try:
            yield
        except (BadImageError, RuntimeError, MemoryError) as error:  # RuntimeError: a GPU's lack of memory, for one
            if self.unreadable is None:
                raise
            what = " ".join(str(error).split())[:200] or type(error).__name__
            for name in names:
                bad = isinstance(error, BadImageError)
                self.unreadable(name, what.removeprefix(f"{printable(name)}: ") if bad else f"failed ({what})")
