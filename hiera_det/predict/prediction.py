"""What a detector has found on one image.

Letters in shapes: N objects of one image, H and W its height and width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hiera_det.extras import need
from hiera_det.predict.rows import coco_rows
from hiera_det.report.drawing import Objects, class_name, draw_objects
from hiera_det.report.panels import placed

__all__ = ["ArrayPrediction", "Prediction", "found_objects"]

#: Least score of a keypoint that is drawn, detectron2's.
KEYPOINT_SCORE = 0.05


@dataclass(frozen=True, kw_only=True)
class Prediction(ABC):
    """The objects of one image, the best score first.

    Attributes:
        file: the image's path; "" for one that was in memory.
        image: its pixels ``[H, W, 3]``, RGB, 0-255, upright.
        categories: of the indices, ``{"id": id in the training JSON, "name": name}``; empty where they are not known.
        frame: its number in a video, from 0; None for an image.
    """

    file: str
    image: npt.NDArray[np.uint8]
    categories: Sequence[dict[str, Any]] = ()
    frame: int | None = None

    @abstractmethod
    def arrays(self) -> Mapping[str, Any]:
        """``boxes``, ``scores``, ``classes``, ``masks`` and ``keypoints``, as the properties of these names say."""

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def boxes(self) -> npt.NDArray[np.float32]:
        """XYXY in the image's pixels, ``[N, 4]``."""
        boxes: npt.NDArray[np.float32] = self.arrays()["boxes"]
        return boxes

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """From 0 to 1, ``[N]``."""
        scores: npt.NDArray[np.float32] = self.arrays()["scores"]
        return scores

    @property
    def classes(self) -> npt.NDArray[np.int64]:
        """Indices ``[N]``."""
        classes: npt.NDArray[np.int64] = self.arrays()["classes"]
        return classes

    @property
    def masks(self) -> npt.NDArray[np.bool_] | None:
        """Truth values ``[N, H, W]``, or None."""
        masks: npt.NDArray[np.bool_] | None = self.arrays().get("masks")
        return masks

    @property
    def keypoints(self) -> npt.NDArray[np.float32] | None:
        """x, y and score, ``[N, K, 3]``, or None."""
        keypoints: npt.NDArray[np.float32] | None = self.arrays().get("keypoints")
        return keypoints

    @property
    def names(self) -> list[str]:
        """The class of each object, by its name."""
        known = len(self.categories)
        return [self.categories[i]["name"] if i < known else f"class {i}" for i in self.classes.tolist()]

    def above(self, threshold: float) -> ArrayPrediction:
        """The objects of at least that score."""
        kept = self.scores >= threshold
        found = {name: None if array is None else array[kept] for name, array in self.arrays().items()}
        return ArrayPrediction(
            file=self.file, image=self.image, categories=self.categories, frame=self.frame, found=found
        )

    def draw(self) -> Image.Image:
        """The image with masks, boxes, class names and scores."""
        return draw_objects(
            self.image, found_objects(self.arrays(), [category["name"] for category in self.categories])
        )

    def coco_results(self, image_id: Any) -> list[dict[str, Any]]:
        """The objects as COCO's results: ``image_id``, ``category_id``, ``bbox`` (XYWH), ``score``, ``segmentation``.

        ``file_name``, ``category_name`` and, of a video, ``frame`` are added. Category ids are those of the training
        JSON, where they are known, else indices.
        """
        known = len(self.categories)
        ids = [self.categories[i]["id"] if i < known else i for i in self.classes.tolist()]
        rows = coco_rows(image_id, self.boxes, self.scores.tolist(), ids, self.masks)
        keypoints = self.keypoints
        for index, (row, name) in enumerate(zip(rows, self.names, strict=True)):
            if keypoints is not None:
                # COCO's places are pixels, detectron2's the corners between them.
                row["keypoints"] = (keypoints[index] - np.array([0.5, 0.5, 0], np.float32)).reshape(-1).tolist()
            row |= {"category_name": name, "file_name": self.file}
            if self.frame is not None:
                row["frame"] = self.frame
        return rows

    def to_supervision(self) -> Any:
        """The objects as ``supervision.Detections``, with ``class_name`` in its ``data``; keypoints are left out.

        Raises:
            InputError: the package supervision is not installed.
        """
        need("supervision", "to_supervision()")
        import supervision

        return supervision.Detections(
            xyxy=np.asarray(self.boxes, np.float32).reshape(-1, 4),
            mask=self.masks,
            confidence=np.asarray(self.scores, np.float32),
            class_id=np.asarray(self.classes, np.int64),
            data={"class_name": np.array(self.names, dtype=str)},
        )


@dataclass(frozen=True, kw_only=True)
class ArrayPrediction(Prediction):
    """A prediction of arrays alone.

    Attributes besides those of `Prediction`:
        found: see `Prediction.arrays`.
    """

    found: Mapping[str, Any]

    def arrays(self) -> Mapping[str, Any]:
        """See `Prediction.arrays`."""
        return self.found


def found_objects(found: Mapping[str, Any], names: Sequence[str]) -> Objects:
    """What is drawn of a prediction's arrays: ``boxes``, ``scores``, ``classes``, ``masks`` and ``keypoints``.

    Args:
        found: the arrays, see `Prediction`.
        names: of the classes' indices.
    """
    classes, masks, points = found["classes"].tolist(), found.get("masks"), found.get("keypoints")
    scores = found["scores"].tolist()
    return Objects(
        boxes=found["boxes"].astype(np.float64),
        labels=[f"{class_name(i, names)} {score:.2f}" for i, score in zip(classes, scores, strict=True)],
        classes=classes,
        masks=None if masks is None else list(masks),
        keypoints=None if points is None else [placed(one, KEYPOINT_SCORE) for one in points.astype(np.float64)],
    )
