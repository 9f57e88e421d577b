"""A training that has run, or is to go on: its metrics, its weights, and what they predict."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiera_det.api.needs import need_detectron2
from hiera_det.engine.checkpoint import BEST, Checkpoints
from hiera_det.engine.events import METRICS, read_metrics
from hiera_det.engine.record import read_record
from hiera_det.errors import InputError
from hiera_det.extras import need
from hiera_det.files import StrPath, path_of
from hiera_det.report.threshold import read_threshold

if TYPE_CHECKING:
    from hiera_det.predict.predictor import FilePredictor
    from hiera_det.tasks.classify.predict import Classifier

__all__ = ["Run", "Weights", "open_run"]

CONFIG = "config.yaml"


def open_run(output: StrPath) -> Run:
    """A run by its folder, trained from Python or by a command, finished or not.

    Raises:
        InputError: no training has been there.
    """
    return Run(output)


class Run:
    """A training's folder, read when it is asked.

    Args:
        output: the folder.

    Attributes:
        output: the folder.
        task: ``detect``, ``torchvision``, ``classify`` or ``pretrain``.

    Raises:
        InputError: no training has been there.

    Example:
        run = open_run("output/mine")
        print(run.metrics["bbox/AP"], run.best.path)
        prediction = run.weights.predict("photo.jpg")
    """

    def __init__(self, output: StrPath) -> None:
        self.output = Path(output)
        record = read_record(os.fspath(output))
        if record is None and not (self.output / CONFIG).is_file():
            raise InputError(f"{output}: no training has been there; give the output folder of one")
        self.task = record.task if record else "detect"  # before there were records

    def __repr__(self) -> str:
        return f"Run({os.fspath(self.output)!r})"

    @property
    def asked(self) -> dict[str, Any]:
        """What the training was last asked for, plain values: the fields of its request or settings."""
        record = read_record(os.fspath(self.output))
        return record.asked if record else {}

    @property
    def history(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.json``: losses every so many steps, and evaluations; each has its ``iteration``."""
        return read_metrics(self.output / METRICS)

    @property
    def metrics(self) -> dict[str, Any]:
        """The newest value of each metric, such as ``bbox/AP``, ``top1`` or ``loss``."""
        return {name: value for line in self.history for name, value in line.items()}

    def report(self) -> Path:
        """Write ``report.html`` into the folder, of what the run has left there; its path.

        Raises:
            InputError: a package is missing, or the annotations that a detector was evaluated on are.
        """
        if self.task in ("detect", "torchvision"):
            from hiera_det.report.page import check_report_packages

            check_report_packages()
            need("pycocotools", "the report")
            from hiera_det.report.detection import write_detector_report

            return write_detector_report(self.output)
        from hiera_det.report.run_report import write_run_report

        return write_run_report(self.output)

    @property
    def best(self) -> Weights:
        """The weights whose metric was the best.

        Raises:
            InputError: there are none.
        """
        path = self.output / BEST
        if path.is_file():
            return Weights(path, self)
        raise InputError(
            f"{self.output}: no best weights are kept there: the training names no best= metric, or no evaluation has "
            "given one; run.last are the newest"
        )

    @property
    def weights(self) -> Weights:
        """What predicts and is evaluated where nobody says what: the best weights where they are kept, else the last.

        Raises:
            InputError: there are none.
        """
        return self.best if (self.output / BEST).is_file() else self.last

    @property
    def last(self) -> Weights:
        """The newest weights: those at the end, or of a training that has not ended its last checkpoint.

        Raises:
            InputError: there are none.
        """
        checkpoints = Checkpoints(os.fspath(self.output))
        for path in (checkpoints.tagged(), *checkpoints.candidates()):
            if path:
                return Weights(path, self)
        raise InputError(
            f"{self.output}: there are no weights yet; run.resume() has no checkpoint to go on from either"
        )

    def resume(self, *, callbacks: Sequence[object] = (), **changes: Any) -> Run:
        """Go on from the last checkpoint, as if nothing had been; a training that has ended is evaluated again.

        Args:
            callbacks: as of the training.
            changes: arguments of the training that are to be others, such as ``epochs`` or ``num_workers``.

        Returns:
            the run.

        Raises:
            InputError: there is no checkpoint, or a change cannot be.
            KeyboardInterrupt: as of the training.
        """
        record = read_record(os.fspath(self.output))
        if record is None:
            raise InputError(
                f"{self.output}: there is no run.json, by which a run goes on; resume it by hiera-det train"
            )
        from hiera_det.api.resume import resume

        resume(os.fspath(self.output), record, changes, callbacks)
        return self


class Weights(os.PathLike[str]):
    """A file of a run's weights, which stands for its path wherever one is wanted.

    Attributes:
        path: the file.
        run: whose it is.
    """

    def __init__(self, path: Path, run: Run) -> None:
        self.path, self.run = path, run
        self._built: tuple[str, Any] = ("", None)

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __repr__(self) -> str:
        return f"Weights({os.fspath(self.path)!r})"

    def predict(self, images: Any, **options: Any) -> Any:
        """What is on images.

        Args:
            images: an image or several; a classifier's are files, a detector's also PIL images, arrays (RGB, RGBA or
                grey, of any number type) and tensors ``[3, H, W]``, see `hiera_det.data.memory`.
            options: of `predictor`.

        Returns:
            of one image its `hiera_det.predict.prediction.Prediction`, from detectron2's detectors with ``instances``,
            or from a classifier its `hiera_det.tasks.classify.predict.Classified`; of several a list in their order.

        Raises:
            InputError: an image cannot be read or used, or the weights are no detector's or classifier's.
        """
        predictor = self.predictor(**options)
        if self.run.task != "classify":
            return predictor.predict(images)
        is_one = isinstance(images, str | os.PathLike)
        found = list(predictor.classify([path_of(file, "images") for file in ([images] if is_one else images)]))
        return found[0] if is_one else found

    def predictor(self, **options: Any) -> Any:
        """The model, ready for images; the last that was built is kept.

        Args:
            options: ``threshold``, the least score of a detector's objects (by default that of the best F1 at their
                evaluation, where there was one), ``class_thresholds``, other ones by class, and ``device``.

        Raises:
            InputError: the weights are no detector's or classifier's.
        """
        asked = repr(sorted(options.items()))
        if self._built[0] != asked:
            self._built = asked, self._build(**options)
        return self._built[1]

    def _build(self, **options: Any) -> Any:
        if self.run.task == "pretrain":
            raise InputError(f"{self.path}: a masked autoencoder predicts nothing; train from it, weights=run.last")
        if self.run.task == "classify":
            return self._classifier(**options)
        return self._detector(**options)

    def _classifier(self, device: str | None = None) -> Classifier:
        from hiera_det.engine.processes import default_device
        from hiera_det.tasks.classify.predict import Classifier

        return Classifier(self, device or default_device())

    def _detector(
        self,
        threshold: float | None = None,
        class_thresholds: Mapping[str, float] | None = None,
        device: str | None = None,
    ) -> FilePredictor:
        score = read_threshold(self.run.output, self).score if threshold is None else threshold
        if self.run.task == "torchvision":
            from hiera_det.adapters.torchvision.predict import TorchvisionPredictor

            return TorchvisionPredictor(self, score, class_thresholds, device)
        need_detectron2()
        from hiera_det.d2.config.load import load_config
        from hiera_det.d2.predict.predictor import Predictor

        opts = ["MODEL.DEVICE", device] if device else []
        cfg = load_config(os.fspath(self.run.output / CONFIG), opts)
        return Predictor(cfg, self, score, class_thresholds)
