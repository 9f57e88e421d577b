"""A trained detector of torchvision's, ready for images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hiera_det.adapters.torchvision.saved import load_detector
from hiera_det.data.images import MAX_PIXELS, read_image
from hiera_det.data.memory import ImageLike, as_rgb
from hiera_det.engine.checkpoint import weights_in
from hiera_det.engine.processes import default_device
from hiera_det.files import StrPath, path_of
from hiera_det.predict.failures import Failures
from hiera_det.predict.prediction import ArrayPrediction, Prediction
from hiera_det.predict.predictor import FilePredictor, paths_of
from hiera_det.predict.thresholds import least_score, least_scores
from hiera_det.report.threshold import read_threshold

__all__ = ["TorchvisionPredictor", "masks_of"]

#: Least probability of a pixel that is a mask's.
MASK = 0.5


class TorchvisionPredictor(FilePredictor):
    """A detector of torchvision's with its classes, for images of any size, one at a time.

    Args:
        weights: a file that ``hiera-det train --framework torchvision`` has left.
        threshold: objects of lower scores are left out.
        class_thresholds: other least scores of some classes, by name.
        device: ``cpu`` or ``cuda``; None for a GPU where there is one.
        max_pixels: of a file, see `hiera_det.data.images`.

    Attributes:
        model: the detector, in eval mode.

    Raises:
        InputError: see `load_detector`, or a threshold cannot be used.
    """

    def __init__(
        self,
        weights: StrPath,
        threshold: float = 0.5,
        class_thresholds: Mapping[str, float] | None = None,
        device: str | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        least = least_score(threshold, class_thresholds)
        saved = load_detector(path_of(weights, "weights"))
        rows = zip(saved.category_ids, saved.classes[1:], strict=True)
        self.categories = [{"id": id_, "name": name} for id_, name in rows]
        self._least = least_scores(self.class_names, threshold, class_thresholds)
        self.device, self.max_pixels = torch.device(device or default_device()), max_pixels
        self.model = saved.model.to(self.device)
        # What scores less would not change the rest, and is not given a mask this way.
        head = getattr(self.model, "roi_heads", self.model)
        head.score_thresh = least

    @classmethod
    def from_folder(
        cls,
        folder: StrPath,
        threshold: float | None = None,
        class_thresholds: Mapping[str, float] | None = None,
        device: str | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> TorchvisionPredictor:
        """The detector that a training left: its best weights, else its last.

        Args:
            folder: of the run.
            threshold: None for the best at the weights' evaluation.
            class_thresholds: see `TorchvisionPredictor`.
            device: likewise.
            max_pixels: likewise.

        Raises:
            InputError: there are no weights, or see `TorchvisionPredictor`.
        """
        weights = weights_in(path_of(folder, "folder"))
        score = read_threshold(folder, weights).score if threshold is None else threshold
        return cls(weights, score, class_thresholds, device, max_pixels)

    def predict_files(
        self, files: StrPath | Sequence[StrPath], unreadable: Callable[[str, str], None] | None = None
    ) -> Iterator[Prediction]:
        """See `FilePredictor.predict_files`; in the files' order."""
        report = Failures(unreadable)
        for name in paths_of(files):
            with report.of(name):
                yield self._prediction(name, np.asarray(read_image(name, max_pixels=self.max_pixels)))

    def predict_images(self, images: Sequence[ImageLike]) -> list[Prediction]:
        """See `FilePredictor.predict_images`; arrays are red, green and blue."""
        return [self._prediction("", pixels) for pixels in as_rgb(images)]

    def _prediction(self, file: str, image: npt.NDArray[np.uint8]) -> Prediction:
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).to(self.device).float() / 255
        with torch.inference_mode():
            (output,) = self.model([tensor])
        if self._least is not None:
            least = torch.from_numpy(self._least).to(self.device)
            kept = output["scores"] >= least[output["labels"] - 1]
            output = {name: values[kept] for name, values in output.items()}
        boxes, scores, labels = (output[name].cpu().numpy() for name in ("boxes", "scores", "labels"))
        found = {"boxes": boxes, "scores": scores, "classes": labels - 1}  # 0 is the background
        found |= {"masks": masks_of(output)} if "masks" in output else {}
        return ArrayPrediction(file=file, image=image, categories=self.categories, found=found)


def masks_of(output: Mapping[str, Tensor]) -> npt.NDArray[np.bool_]:
    """The masks that torchvision's probabilities ``[N, 1, H, W]`` give, ``[N, H, W]``."""
    masks: npt.NDArray[np.bool_] = (output["masks"][:, 0] > MASK).cpu().numpy()
    return masks
