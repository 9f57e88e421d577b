"""The settings of a torchvision detector's training: what flags or Python fill, checked when they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hiera_det.engine.best import AUTO
from hiera_det.report.average_precision import METRICS
from hiera_det.tasks.recipes import Recipe, Recipes
from hiera_det.tasks.settings import TaskSettings

__all__ = ["DETECTION", "DETECTORS", "DetectorSettings"]

#: Detectors by their words here; the first has masks.
DETECTORS = ("maskrcnn", "fasterrcnn", "retinanet", "fcos")
#: Longest side over the shortest one, torchvision's.
LONGEST = 1333 / 800


def _detection(drop_path_rate: float, lr: float = 3.5e-5) -> Recipe:
    return Recipe(lr, 64, 36, 1, drop_path_rate, 1.0, (0.9, 0.999), 0.1)


#: Rates and drop path of the Mask R-CNN configs: Hiera's Table 15 for base to large, ours for the others; as ours are
#: the 36 epochs and the one of warm-up.
DETECTION = Recipes(
    tiny=_detection(0.1),
    small=_detection(0.1),
    base=_detection(0.2),
    base_plus=_detection(0.2),
    large=_detection(0.4, 3e-5),
    huge=_detection(0.5, 3e-5),
)


@dataclass(frozen=True, kw_only=True)
class DetectorSettings(TaskSettings):
    """Training a detector of torchvision's on a COCO JSON.

    Attributes besides those of its base, whose ``image_size`` is the shorter side:
        train_json: COCO JSON to train on; its classes are the detector's.
        train_images: the folder that its file names are relative to.
        val_json: COCO JSON to evaluate on, with the same classes in any order; "" for no evaluation.
        val_images: the folder that its file names are relative to.
        detector: one of `DETECTORS`.
        weights: of the trunk, a file, URL, ``hf://`` or ``timm://``; "" for random weights.
        max_size: longest side of an image; None for 5/3 of the shorter one.
        options: more arguments of `maskrcnn_hiera` and its like, plain values, such as ``{"box_score_thresh": 0.01}``.
    """

    train_json: str
    train_images: str
    val_json: str = ""
    val_images: str = ""
    detector: str = DETECTORS[0]
    weights: str = ""
    image_size: int = 800
    max_size: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 2
    eval_batch_size: int = 1
    best: str = AUTO

    #: By the square root, as Adam's steps do not grow with the gradient (Malladi et al. 2022).
    lr_power: ClassVar[float] = 0.5
    compared: ClassVar[tuple[str, ...]] = (*TaskSettings.compared, "detector", "size", "max_size", "options")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.detector not in DETECTORS:
            raise self.refusal("detector", f"choose one of {', '.join(DETECTORS)}")
        self.check_counts(1, *self._given("max_size"))
        if self.longest < self.image_size:
            raise self.refusal("max_size", f"is below {self.word('image_size')} {self.image_size}; raise it")
        self._check_best([f"{task}/{name}" for task in self.tasks for name in METRICS])
        if not self.val_json and (self.patience or self.best not in (AUTO, "")):
            word = "patience" if self.patience else "best"
            raise self.refusal(word, f"nothing is measured: give {self.word('val_json')}")

    @property
    def tasks(self) -> tuple[str, ...]:
        """What is evaluated: boxes, and masks where the detector has them."""
        return ("bbox", "segm") if self.detector == DETECTORS[0] else ("bbox",)

    @property
    def longest(self) -> int:
        """Longest side of an image."""
        return round(LONGEST * self.image_size) if self.max_size is None else self.max_size

    def model_fields(self, size: str) -> dict[str, Any]:
        """What `build_detector` makes a detector from, but for its classes: plain values."""
        given = {name: getattr(self, name) for name in self._given("embed_dim", "num_heads")}
        given |= {"depths": list(self.depths)} if self.depths else {}
        if self.embed_dim and not self.num_heads:  # another width need not divide by the size's heads
            given["num_heads"] = 1
        sides = {"image_size": self.image_size, "max_size": self.longest}
        return {"detector": self.detector, "size": size, **sides, **given, "options": dict(self.options)}

    def derived(self) -> Mapping[str, Sequence[str]]:
        """See `TaskSettings.derived`."""
        follows = {} if self.max_size else {self.word("max_size"): [self.word("image_size")]}
        return {**super().derived(), **follows}
