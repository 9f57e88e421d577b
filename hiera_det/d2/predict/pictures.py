"""Predictions beside the ground truth, and what is drawn when a training ends.

`draw_predictions` can be called on its own; `PictureHook` calls it and draws the curves. Every picture is written
beside its place and then renamed, so a file that exists is whole. A class has the same colour on both sides.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.engine import HookBase
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from PIL import Image
from torch import nn

from hiera_det.d2.data.batches import model_input
from hiera_det.d2.data.datasets import dataset_categories
from hiera_det.d2.data.pixels import check_size, read_pixels
from hiera_det.d2.model.across_classes import as_tested
from hiera_det.data.images import BadImageError
from hiera_det.engine.sharding import whole
from hiera_det.files import write_atomically
from hiera_det.predict.prediction import found_objects
from hiera_det.report.curves import draw_curves
from hiera_det.report.drawing import Objects, draw_objects
from hiera_det.report.panels import objects_of, panel_size
from hiera_det.report.sheet import captioned, justified, lay_out
from hiera_det.report.threshold import read_threshold

__all__ = ["PictureHook", "arrays_of", "draw_predictions", "predicted_objects"]

logger = logging.getLogger("hiera_det.pictures")

CAPTION_HEIGHT = 30
CAPTION_WIDTH = 340
GAP = 8  # between pictures
SHEET_COLUMNS = 2
SHEET_WIDTH = 1608  # pixels


def draw_predictions(
    model: nn.Module,
    dataset_name: str,
    cfg: CfgNode,
    out_dir: str | Path,
    count: int = 8,
    threshold: float = 0.5,
    class_names: Sequence[str] | None = None,
) -> list[Path]:
    """Draw ground truth (left) beside predictions (right) for some images of a registered data set.

    Args:
        model: a detectron2 detector; it predicts in eval mode, and each of its modules gets its own mode back.
        dataset_name: name in the ``DatasetCatalog``.
        cfg: for ``INPUT.FORMAT`` and ``INPUT.MIN_SIZE_TEST``, ``INPUT.MAX_SIZE_TEST``.
        out_dir: gets ``predictions/<index>_<file stem>.jpg``, with the image's index in the data set, and
            ``predictions.png`` with all of them.
        count: number of images, evenly spaced over the data set (fewer where it has fewer, or where one cannot be
            read, which costs a line in the log).
        threshold: least score of a prediction that is drawn.
        class_names: of the model's indices; None where they are the data set's.

    Returns:
        the paths of the single pictures, in the data set's order; the sheet is not among them.

    Raises:
        ValueError: the data set is empty, ``count`` is not positive, no image can be read, or the model predicts no
            instances.
        OSError: a picture cannot be written.
    """
    records = DatasetCatalog.get(dataset_name)
    if not records:
        raise ValueError(f"data set {dataset_name!r} has no images to draw")
    folder = Path(out_dir) / "predictions"
    folder.mkdir(parents=True, exist_ok=True)
    names = MetadataCatalog.get(dataset_name).get("thing_classes", None)
    digits = len(str(len(records) - 1))
    paths, pairs = [], []
    with _eval_mode(model), torch.inference_mode():
        for index in _evenly_spaced(len(records), count):
            try:
                pair = _draw_pair(model, records[index], cfg, threshold, names, class_names or names)
            except BadImageError as error:
                logger.warning("%s: no picture of it", error)
                continue
            stem = re.sub(r"[^\w.-]+", "_", Path(records[index]["file_name"]).stem, flags=re.ASCII)[:80]
            path = folder / f"{index:0{digits}d}_{stem}.jpg"
            write_atomically(path, partial(pair.save, format="JPEG", quality=90), durable=False)
            paths.append(path)
            pair.thumbnail((SHEET_WIDTH, SHEET_WIDTH), Image.Resampling.LANCZOS)
            pairs.append(pair)
    if not pairs:
        raise ValueError(f"none of the images drawn of data set {dataset_name!r} can be read")
    sheet = justified(pairs, SHEET_COLUMNS, SHEET_WIDTH, GAP)
    write_atomically(folder.with_suffix(".png"), lambda file: sheet.save(file, format="PNG"), durable=False)
    return paths


class PictureHook(HookBase):
    """Draws both kinds of pictures into ``cfg.OUTPUT_DIR`` when training ends, and logs their paths.

    Only the main process draws. Without ``DATASETS.TEST``, and where training stopped early, only curves are drawn.
    A picture that cannot be drawn costs one line in the log, never the training.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg

    def after_train(self) -> None:
        """Called by the trainer, after the last evaluation if this is the last hook."""
        drawn: list[Path] = []
        finished = self.trainer.iter >= self.trainer.max_iter
        if finished and self.cfg.DATASETS.TEST and self.cfg.TEST.PICTURES:
            with whole(self.trainer.model):
                if comm.is_main_process():
                    drawn += _attempt("predictions", self._predictions)
        stop = getattr(self.trainer, "stop", None)  # other trainers have none
        if not comm.is_main_process() or (stop and stop.requested):
            return  # who stops a run waits for it to end
        drawn += _attempt("curves", self._curves)
        for path in drawn:
            logger.info("pictures: %s", path)

    def _predictions(self) -> list[Path]:
        model = self.trainer.model
        model = getattr(model, "module", model)  # out of DistributedDataParallel
        test, out = self.cfg.TEST, self.cfg.OUTPUT_DIR
        trained = [category["name"] for name in self.cfg.DATASETS.TRAIN[:1] for category in dataset_categories(name)]
        threshold = test.PICTURES_THRESHOLD or read_threshold(out).score
        drawn = (self.cfg.DATASETS.TEST[0], self.cfg, out, test.PICTURES, threshold)
        paths = draw_predictions(as_tested(self.cfg, model), *drawn, class_names=trained)
        return [*paths, Path(out) / "predictions.png"]

    def _curves(self) -> list[Path]:
        return [draw_curves(self.cfg.OUTPUT_DIR)]


def _attempt(what: str, draw: Callable[[], list[Path]]) -> list[Path]:
    """The paths that ``draw`` gives, or none and a line in the log."""
    try:
        return draw()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: out of memory, among others
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        logger.warning("%s could not be drawn: %s", what, reason)
        return []


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards each module is as it was (a frozen part may have been in eval mode all along)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _evenly_spaced(length: int, count: int) -> list[int]:
    """``count`` indices below ``length``, ascending, first and last among them; all where there are not as many."""
    if count < 1:
        raise ValueError(f"count {count}: at least one image is needed")
    return sorted({round(index) for index in np.linspace(0, length - 1, min(count, length))})


def _draw_pair(
    model: nn.Module,
    record: dict[str, Any],
    cfg: CfgNode,
    threshold: float,
    truth_names: Sequence[str] | None,
    found_names: Sequence[str] | None,
) -> Image.Image:
    image = read_pixels(record["file_name"], cfg.INPUT.FORMAT, cfg.INPUT.MAX_PIXELS)  # [H, W, channels]
    check_size(record, image)
    size = panel_size(*image.shape[:2])
    rgb = Image.fromarray(convert_image_to_rgb(image, cfg.INPUT.FORMAT).astype(np.uint8))
    panel = np.asarray(rgb.resize((size[1], size[0]), Image.Resampling.BICUBIC))
    annotations = [
        one | {"bbox": BoxMode.convert(one["bbox"], one["bbox_mode"], BoxMode.XYWH_ABS)}
        for one in record.get("annotations", ())
    ]
    truth = objects_of(annotations, image.shape[:2], size, truth_names)
    found, total = predicted_objects(_predict(model, image, size, cfg), threshold, found_names)
    places = {name: place for place, name in enumerate(truth_names or ())}  # the two may number the classes otherwise
    own = [places.get(found_names[index], index) if found_names else index for index in found.classes]
    captions = (
        f"ground truth: {len(truth.labels)}   {Path(record['file_name']).name}",
        f"prediction: {len(found.labels)} of {total} with score >= {threshold:.3g}",
    )
    panels = zip((truth, replace(found, classes=own)), captions, strict=True)
    drawn = [captioned(draw_objects(panel, objects), text, CAPTION_HEIGHT, CAPTION_WIDTH) for objects, text in panels]
    return lay_out(drawn, 2, GAP)


def _predict(model: nn.Module, image: npt.NDArray[Any], size: tuple[int, int], cfg: CfgNode) -> Instances:
    """Predictions for an image ``[H, W, channels]``, prepared as by ``DefaultPredictor``, in pixels of ``size``.

    The detector pastes its masks at the size of the panel, so that a large photograph costs no more than a small one.
    """
    (output,) = model([{"image": model_input(cfg, image), "height": size[0], "width": size[1]}])
    if "instances" not in output:
        raise ValueError(f"{type(model).__name__} predicts {', '.join(output) or 'nothing'}, not instances")
    return output["instances"].to("cpu")


def predicted_objects(instances: Instances, threshold: float, names: Sequence[str] | None) -> tuple[Objects, int]:
    """The predictions of at least that score, and how many there are of any score."""
    return found_objects(arrays_of(instances[instances.scores >= threshold]), names or ()), len(instances)


def arrays_of(instances: Instances) -> dict[str, Any]:
    """The arrays of `hiera_det.predict.prediction.Prediction` from detectron2's; under autocast some are narrower."""
    points = instances.pred_keypoints.float().numpy() if instances.has("pred_keypoints") else None
    return {
        "boxes": instances.pred_boxes.tensor.float().numpy(),
        "scores": instances.scores.float().numpy(),
        "classes": instances.pred_classes.numpy(),
        "masks": instances.pred_masks.numpy() if instances.has("pred_masks") else None,
        "keypoints": points,
    }
