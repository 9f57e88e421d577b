"""A trained detector, ready for images: `Predictor`.

Letters in shapes: N objects of one image, H and W its height and width.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import nn

from hiera_det.d2.config.load import load_config
from hiera_det.d2.data.batches import check_test_batch, make_batches, model_input, padded_size
from hiera_det.d2.data.datasets import dataset_categories
from hiera_det.d2.data.pixels import as_pixels, read_pixels
from hiera_det.d2.model.across_classes import as_tested
from hiera_det.d2.predict.pictures import arrays_of
from hiera_det.d2.predict.precision import autocast, check_autocast
from hiera_det.d2.train.checkpoint import HieraCheckpointer, local_weights
from hiera_det.data.images import read_header
from hiera_det.data.memory import ImageLike, Pixels
from hiera_det.engine.checkpoint import weights_in
from hiera_det.engine.opts import Opts, pairs_of
from hiera_det.errors import InputError
from hiera_det.files import StrPath, path_of
from hiera_det.predict import prediction as plain
from hiera_det.predict.failures import Failures
from hiera_det.predict.predictor import FilePredictor, paths_of
from hiera_det.predict.thresholds import least_score, least_scores
from hiera_det.report.threshold import read_threshold

__all__ = ["Prediction", "Predictor"]

logger = logging.getLogger("hiera_det.predict")


@dataclass(frozen=True, kw_only=True)
class Prediction(plain.Prediction):
    """What was found on one image, also as detectron2 has it.

    Attributes besides those of `hiera_det.predict.prediction.Prediction`:
        instances: detectron2's, on the CPU, the best score first: ``pred_boxes`` (XYXY in the image's pixels),
            ``scores``, ``pred_classes`` (indices) and, with masks, ``pred_masks`` ``[N, H, W]``, with keypoints
            ``pred_keypoints`` ``[N, K, 3]`` (x, y, score).
    """

    instances: Instances

    def arrays(self) -> Mapping[str, Any]:
        """See `hiera_det.predict.prediction.Prediction.arrays`."""
        return arrays_of(self.instances)


class Predictor(FilePredictor):
    """A trained detector with its classes, for images of any size.

    Images are resized by ``INPUT`` as for evaluation and predicted ``TEST.IMS_PER_BATCH`` at a time, those of like
    size together, in the number format of ``TEST.AUTOCAST``, and augmented as ``TEST.AUG`` says. Without a GPU it runs
    on the CPU, whatever ``MODEL.DEVICE`` says.

    Args:
        cfg: the config that the detector was trained with.
        weights: its file; "" for ``MODEL.WEIGHTS``.
        threshold: objects of lower scores are left out.
        class_thresholds: other least scores of some classes, by name.

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
            prediction.draw().save(f"drawn_{number}.png")
    """

    def __init__(
        self,
        cfg: CfgNode,
        weights: StrPath = "",
        threshold: float = 0.5,
        class_thresholds: Mapping[str, float] | None = None,
    ) -> None:
        _check_arguments(cfg, weights)
        least = least_score(threshold, class_thresholds)
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
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.MODEL.RETINANET.SCORE_THRESH_TEST = least
        self.model = build_model(cfg).eval()
        self._detect = as_tested(cfg, self.model).eval()
        saved = HieraCheckpointer(self.model).load_detector(cfg.MODEL.WEIGHTS)
        self.categories: list[dict[str, Any]] = saved.get("categories") or _registered_categories(cfg)
        self._least = least_scores(self.class_names, threshold, class_thresholds)

    @classmethod
    def from_folder(
        cls,
        folder: StrPath,
        opts: Opts = (),
        threshold: float | None = None,
        class_thresholds: Mapping[str, float] | None = None,
    ) -> Predictor:
        """The detector that a training left in its ``OUTPUT_DIR``.

        Args:
            folder: holds ``config.yaml`` and weights: ``model_best.pth`` where it is kept, else ``model_final.pth``; of
                a training that has not ended, the last checkpoint.
            opts: keys and values over the config's, as a dict or in turn; ``MODEL.WEIGHTS`` names another checkpoint.
            threshold: objects of lower scores are left out; None for the best at the weights' evaluation.
            class_thresholds: other least scores of some classes, by name.

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
        score = read_threshold(folder, weights).score if threshold is None else threshold
        return cls(cfg, weights, score, class_thresholds)

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
        return self._predict_pixels(as_pixels(images, self.cfg.INPUT.FORMAT))

    def predict_images(self, images: Sequence[ImageLike]) -> list[Prediction]:
        """As ``predictor(images)``, with the images; arrays have the channels in the order of ``INPUT.FORMAT``."""
        pixels = as_pixels(images, self.cfg.INPUT.FORMAT)
        return [self._with_image("", *both) for both in zip(pixels, self._predict_pixels(pixels), strict=True)]

    def _predict_pixels(self, pixels: Sequence[Pixels]) -> list[Instances]:
        """Predictions of images, those of like size together."""
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
            files: see `FilePredictor.predict_files`.
            unreadable: likewise.

        Returns:
            one prediction for each file that can be read; in the files' order where ``TEST.IMS_PER_BATCH`` is 1,
            otherwise by size.

        Raises:
            InputError: a file cannot be read, and ``unreadable`` is not given.
        """
        names = paths_of(files)
        report = Failures(unreadable)
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

    def _predictions(self, images: Sequence[tuple[str, Pixels]]) -> Iterator[Prediction]:
        """Predictions of one batch of files' names and pixels."""
        found = self._predict_batch([pixels for _, pixels in images])
        for (name, pixels), instances in zip(images, found, strict=True):
            yield self._with_image(name, pixels, instances)

    def _with_image(self, name: str, pixels: Pixels, instances: Instances) -> Prediction:
        rgb = convert_image_to_rgb(pixels, self.cfg.INPUT.FORMAT).astype(np.uint8)
        return Prediction(file=name, image=rgb, categories=self.categories, instances=instances)

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
        found = [output["instances"].to("cpu") for output in outputs]
        if self._least is None:
            return found
        least = torch.from_numpy(self._least)
        return [one[one.scores >= least[one.pred_classes]] for one in found]


def _check_arguments(cfg: Any, weights: Any) -> None:
    """Refuse arguments of other types than `Predictor` takes."""
    if not isinstance(cfg, CfgNode):
        raise InputError(f"cfg: {type(cfg).__name__}; give a config, as of load_config, or use Predictor.from_folder")
    path_of(weights, "weights")


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


def _registered_categories(cfg: CfgNode) -> list[dict[str, Any]]:
    """The classes of the first data set of ``DATASETS`` that this process knows."""
    found = (dataset_categories(name) for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    return next((categories for categories in found if categories), [])
