"""A trained model as a file that runs outside Python."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hiera_det.api.evaluation import run_of
from hiera_det.api.needs import need_detectron2
from hiera_det.api.run import CONFIG, Run, Weights
from hiera_det.engine.opts import Opts, pairs_of
from hiera_det.errors import InputError
from hiera_det.files import StrPath, make_folder, refuse_input
from hiera_det.report.threshold import read_threshold

if TYPE_CHECKING:
    from hiera_det.export.subjects import Subject

__all__ = ["export_model"]

#: Largest relative difference of a file's outputs, by whether it computes in float16.
TOLERANCES = {False: 1e-4, True: 3e-2}


def export_model(
    model: Run | StrPath,
    output: StrPath,
    *,
    format: str = "onnx",
    part: str = "",
    dynamic: bool = False,
    size: Sequence[int] = (),
    half: bool = False,
    threshold: float | None = None,
    check: bool = True,
    opts: Opts = (),
) -> float | None:
    """Write a model as a file that runs without this package, and compare what the file computes.

    Args:
        model: a run, whose newest weights are taken, or its folder; weights of one, such as ``run.best``; or a file of
            a trunk or classifier: a path, URL, ``hf://`` or ``timm://``.
        output: the file.
        format: ``onnx``; ``torch`` for `torch.export`, which AOTInductor compiles; or ``torchscript``.
        part: ``detector``, ``pyramid``, ``trunk`` or ``classifier``; "" for all that the model is.
        dynamic: for every size and, but of a detector, every number of images; a TorchScript file is so anyway.
        size: height and width of a file of one size; by default those of the tests.
        half: compute in float16, a detector but for its heads; inputs and outputs stay float32.
        threshold: objects of lower scores are left out; None for that of the best F1 at the last evaluation.
        check: run the file and compare it.
        opts: config keys of a detector over its own, as in `hiera_det.train_detector`.

    Returns:
        the largest difference of the file's outputs from the model's own in float32, on noise, over the largest value;
        None without a check, and of a detector, where the last digit may decide between two boxes.

    Raises:
        InputError: the model has no such part or format, a package is missing, or the file computes something else.
    """
    from hiera_det.export.formats import FORMATS, largest_difference, run_file, write_graph
    from hiera_det.export.subjects import PARTS, in_half

    for name, value, choices in (("format", format, FORMATS), ("part", part, ("", *PARTS))):
        if value not in choices:
            raise InputError(f"{name} {value!r}: choose one of {', '.join(filter(None, choices))}")
    _check_size(size, dynamic)
    make_folder(Path(output).parent, "the folder of the file")
    run = model.run if isinstance(model, Weights) else run_of(model)
    refuse_input(output, "output", run.output.glob("*.pth") if run else (os.fspath(model),))  # type: ignore[arg-type]
    subject = _subject(model, part, size, threshold, opts)
    dynamic = dynamic or format == "torchscript"
    write_graph(in_half(subject) if half else subject, output, format, dynamic)
    if not check:
        return None
    if subject.part == "detector":
        run_file(output, format)(subject.example(dynamic))
        return None
    off = largest_difference(subject, output, format, dynamic)
    if not off <= TOLERANCES[half]:
        raise InputError(f"{output}: computes something else, off by {off:.1e} of the largest value; do not use it")
    return off


def _check_size(size: Sequence[int], dynamic: bool) -> None:
    if size and (dynamic or len(size) != 2 or any(type(side) is not int or side < 32 or side % 32 for side in size)):
        raise InputError(f"size {tuple(size)}: give height and width, multiples of 32, or dynamic for all sizes")


def _subject(model: Run | StrPath, part: str, size: Sequence[int], threshold: float | None, opts: Opts) -> Subject:
    """What to export of a model as `export_model` takes it."""
    from hiera_det.export.subjects import detector_subject, file_subject

    run = model.run if isinstance(model, Weights) else run_of(model)
    weights = os.fspath(run.weights if run and not isinstance(model, Weights) else model)  # type: ignore[arg-type]
    if run is None or run.task != "detect":
        if opts or threshold is not None:
            raise InputError("threshold and config keys are a detector's, and this is none; leave them out")
        return file_subject(weights, part, size)
    need_detectron2()
    from hiera_det.d2.config.load import load_config
    from hiera_det.d2.predict.predictor import Predictor

    own = pairs_of(opts)
    cfg = load_config(os.fspath(run.output / CONFIG), {"MODEL.DEVICE": "cpu", "MODEL.HIERA.COMPILE": False, **own})
    score = read_threshold(run.output, weights).score if threshold is None else threshold
    return detector_subject(Predictor(cfg, "" if "MODEL.WEIGHTS" in own else weights, score), part, size)
