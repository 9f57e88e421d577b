"""Evaluation from Python: of a run, of weights, and of results that some detector has written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hiera_det.api.keys import Data, data_fields, key_words
from hiera_det.api.needs import need_detectron2
from hiera_det.api.run import CONFIG, Run, Weights
from hiera_det.api.words import called_from_python
from hiera_det.engine.opts import Opts, pairs_of, words_of
from hiera_det.engine.record import read_record
from hiera_det.errors import InputError
from hiera_det.files import StrPath

__all__ = ["evaluate"]


def evaluate(
    model: Run | StrPath,
    val: StrPath | Data | None = None,
    *,
    batch_size: int | None = None,
    num_workers: int | None = None,
    device: str | None = None,
    num_gpus: int = 1,
    opts: Opts = (),
) -> dict[str, float]:
    """Measure a detector or a classifier, or score a file of results.

    Args:
        model: a run, whose best weights are taken where they are kept, else its last, or its folder; weights of one,
            such as ``run.best``; a file of a classifier; or a JSON of a detector's results, as COCO has them.
        val: what to evaluate on: ``(COCO JSON, images folder)``, for results the JSON alone, for a classifier a folder
            of a folder per class. None for what the run was evaluated on.
        batch_size: images at a time.
        num_workers: processes that read images.
        device: ``cuda`` or ``cpu``; by default a GPU where there is one.
        num_gpus: processes among which a detector's images are shared out.
        opts: other config keys of a detector, as in `hiera_det.train_detector`.

    Returns:
        metrics by their names: of a detector ``bbox/AP`` and the like in percent; of a classifier ``top1`` and ``top5``
        from 0 to 1, and ``val_loss``.

    Raises:
        InputError: something cannot be used; one line.
    """
    name = os.fspath(model.output if isinstance(model, Run) else model)
    if name.lower().endswith(".json") and Path(name).is_file():
        return _scores(name, val, opts)
    run = model.run if isinstance(model, Weights) else run_of(model)
    weights = model if isinstance(model, Weights) else run.weights if run else None
    machine = {"batch_size": batch_size, "num_workers": num_workers, "device": device}
    given = {word: value for word, value in machine.items() if value is not None}
    if run is None or run.task == "classify":
        return _accuracy(os.fspath(weights or name), val or (run.asked.get("val") if run else None), given, opts)
    if run.task == "pretrain":
        raise InputError(f"{name}: a masked autoencoder has no metrics; evaluate what was trained from it")
    if run.task == "torchvision":
        return _torchvision(run, os.fspath(weights or ""), val, given, opts)
    return _average_precision(run, os.fspath(weights or ""), val, given, opts, num_gpus)


def run_of(model: Run | StrPath) -> Run | None:
    """The run that this is, or whose folder; None where it is a file."""
    if isinstance(model, Run):
        return model
    folder = Path(model)
    return Run(folder) if folder.is_dir() and (read_record(str(folder)) or (folder / CONFIG).is_file()) else None


def _scores(results: str, val: StrPath | Data | None, opts: Opts) -> dict[str, float]:
    """Of a file of results."""
    need_detectron2()
    from hiera_det.d2.predict.scoring import score_results

    if val is None:
        raise InputError(f"{results}: give val, the COCO JSON that the results are scored against")
    rest = pairs_of(opts)
    limits = {"coco_eval": "TEST.COCO_EVAL", "max_detections": "TEST.DETECTIONS_PER_IMAGE"}
    known = {name: rest.pop(key) for name, key in limits.items() if key in rest}
    if rest:
        raise InputError(f"opts {next(iter(rest))}: of results only {' and '.join(limits.values())} are read")
    json = val if isinstance(val, str | os.PathLike) else val[0]
    with called_from_python():
        return _flattened(score_results(results, os.fspath(json), **known))


def _accuracy(weights: str, val: Any, given: dict[str, Any], opts: Opts) -> dict[str, float]:
    """Of a classifier."""
    from hiera_det.engine.processes import check_device, default_device
    from hiera_det.tasks.classify.predict import Classifier

    if opts:
        raise InputError("opts: are of detectors, and this is a classifier; leave them out")
    if not isinstance(val, str | os.PathLike):
        raise InputError(f"val {val!r}: give the folder of a folder per class that {weights} is evaluated on")
    device = given.pop("device", None) or default_device()
    with called_from_python():
        check_device(device, "device")
        words = {"num_workers": "workers"}
        accuracy = Classifier(weights, device).evaluate(
            os.fspath(val), **{words.get(name, name): value for name, value in given.items()}
        )
    return {"top1": accuracy.top1, "top5": accuracy.top5, "val_loss": accuracy.loss}


def _torchvision(
    run: Run, weights: str, val: StrPath | Data | None, given: Mapping[str, Any], opts: Opts
) -> dict[str, float]:
    """Of a detector of torchvision's; what it predicts goes to ``inference`` of the run's folder."""
    from hiera_det.adapters.torchvision.evaluation import evaluate_detector
    from hiera_det.engine.processes import check_device, default_device
    from hiera_det.report.detection import INFERENCE

    if opts:
        raise InputError("opts: are keys of detectron2's configs, and this is a detector of torchvision's")
    data = data_fields("val", val) or {name: run.asked.get(name) for name in ("val_json", "val_images")}
    if not data["val_json"]:
        raise InputError(f"{run.output}: was not evaluated on anything; give val, COCO JSON and images folder")
    device = given.get("device") or default_device()
    rest = {"batch_size": given.get("batch_size", 1), "workers": given.get("num_workers")}
    with called_from_python():
        check_device(device, "device")
        places = (str(data["val_json"]), str(data["val_images"]), run.output / INFERENCE)
        return evaluate_detector(weights, *places, device, **rest)


def _average_precision(
    run: Run, weights: str, val: StrPath | Data | None, given: dict[str, Any], opts: Opts, num_gpus: int
) -> dict[str, float]:
    """Of a detector; what it predicts goes to ``inference`` of the run's folder."""
    need_detectron2()
    from hiera_det.d2.config.request import RunRequest
    from hiera_det.d2.train.run import start

    keys = {"batch_size": "TEST.IMS_PER_BATCH", "num_workers": "DATALOADER.NUM_WORKERS", "device": "MODEL.DEVICE"}
    own = {keys[name]: value for name, value in given.items()}
    own |= {"MODEL.WEIGHTS": weights, "OUTPUT_DIR": os.fspath(run.output)}
    kept = {name: run.asked.get(name) for name in ("val_json", "val_images")}
    data: dict[str, Any] = data_fields("val", val) or kept
    names = {key: name for name, key in keys.items()} | {"MODEL.WEIGHTS": "model"}
    with called_from_python({**key_words(opts), **names}):
        request = RunRequest(
            config_file=os.fspath(run.output / CONFIG),
            opts=words_of({**own, **pairs_of(opts)}),
            **data,
            num_gpus=num_gpus,
            eval_only=True,
        )
        return _flattened(start(request))


def _flattened(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """``{"bbox": {"AP": 1.0}}`` as ``{"bbox/AP": 1.0}``, as in ``metrics.json``."""
    flat: dict[str, float] = {}
    for name, value in results.items():
        inner = _flattened(value) if isinstance(value, Mapping) else None
        flat |= {f"{name}/{key}": x for key, x in inner.items()} if inner is not None else {name: float(value)}
    return flat
