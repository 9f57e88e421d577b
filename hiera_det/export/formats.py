"""The three formats: a model's graph written into a file, and the file run."""

from __future__ import annotations

import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

import torch
from torch import Tensor

from hiera_det.errors import InputError
from hiera_det.export.subjects import Subject
from hiera_det.extras import need
from hiera_det.files import StrPath, write_atomically
from hiera_det.modeling.options import PATCH_STRIDE, UNIT_SIDES

__all__ = ["FORMATS", "METADATA", "largest_difference", "run_file", "write_graph"]

#: The file of a `torch.export` or TorchScript archive that has the metadata; in ONNX files they are ``metadata_props``.
METADATA = "hiera_det.json"
UNIT = PATCH_STRIDE * UNIT_SIDES[0]
OPSET = 18
#: What a protobuf, and so an ONNX file without others beside it, can hold.
PROTOBUF_BYTES = 2**31


def write_graph(subject: Subject, path: StrPath, format: str, dynamic: bool) -> None:
    """Make the graph and write it.

    Args:
        subject: what to export.
        path: of the file.
        format: one of `FORMATS`.
        dynamic: for every size and every number of images; of a detector for every size.

    Raises:
        InputError: this part has no such format, a package is missing, or the file cannot be written.
    """
    subject.model.requires_grad_(False)  # a TorchScript file keeps what asks for gradients
    with torch.no_grad(), _quietly():
        write_atomically(path, FORMATS[format](subject, dynamic))


def _to_torch(subject: Subject, dynamic: bool) -> Callable[[IO[bytes]], object]:
    """`torch.export`: also what AOTInductor compiles."""
    if subject.part == "detector":
        raise InputError(
            "format torch: a detector's heads choose by values, which torch.export does not follow; take format onnx "
            "or torchscript, or part pyramid"
        )
    program = torch.export.export(subject.model, (subject.example(dynamic),), dynamic_shapes=_shapes(subject, dynamic))
    return lambda file: torch.export.save(program, file, extra_files={METADATA: json.dumps(_metadata(subject))})


def _to_torchscript(subject: Subject, dynamic: bool) -> Callable[[IO[bytes]], object]:
    """`torch.jit.trace`; such a graph holds for all sizes anyway."""
    graph = torch.jit.trace(subject.model, subject.example(True), check_trace=False, strict=False)  # type: ignore[no-untyped-call]
    extra = {METADATA: json.dumps(_metadata(subject))}
    return lambda file: torch.jit.save(graph, file, _extra_files=extra)  # type: ignore[no-untyped-call]


def _to_onnx(subject: Subject, dynamic: bool) -> Callable[[IO[bytes]], object]:
    """ONNX; detectors by PyTorch's older exporter, which follows what is chosen by values."""
    need("onnx", "format onnx")
    if subject.part == "detector":
        model = _traced_onnx(subject, dynamic)
    else:
        need("onnxscript", "format onnx")
        program = torch.onnx.export(
            subject.model,
            (subject.example(dynamic),),
            dynamo=True,
            input_names=["images"],
            output_names=list(subject.outputs),
            dynamic_shapes=_shapes(subject, dynamic),
            opset_version=OPSET,
            verbose=False,
        )
        if sum(p.numel() * p.element_size() for p in subject.model.parameters()) >= PROTOBUF_BYTES:
            raise InputError("format onnx: one file holds less than 2 GiB; take half precision or format torch")
        model = program.model_proto  # type: ignore[union-attr]
    for name, value in _metadata(subject).items():
        model.metadata_props.add(key=name, value=json.dumps(value))
    return lambda file: file.write(model.SerializeToString())


def _traced_onnx(subject: Subject, dynamic: bool) -> Any:
    """A detector's graph by PyTorch's older exporter."""
    import onnx

    file = io.BytesIO()
    axes = {name: {0: "objects"} for name in subject.outputs}
    torch.onnx.export(
        subject.model,
        (subject.example(dynamic),),
        file,  # type: ignore[arg-type]
        dynamo=False,
        input_names=["images"],
        output_names=list(subject.outputs),
        dynamic_axes=axes | ({"images": {1: "height", 2: "width"}} if dynamic else {}),
        opset_version=OPSET,
    )
    return onnx.load_from_string(file.getvalue())


FORMATS: Mapping[str, Callable[[Subject, bool], Callable[[IO[bytes]], object]]] = {
    "torch": _to_torch,
    "onnx": _to_onnx,
    "torchscript": _to_torchscript,
}


def run_file(path: StrPath, format: str) -> Callable[[Tensor], dict[str, Tensor]]:
    """What a file computes on a CPU: outputs by name.

    Raises:
        InputError: onnxruntime is not installed.
    """
    if format == "torch":
        with open(path, "rb") as file:  # under its name it would have to end in .pt2
            return torch.export.load(file).module()  # type: ignore[return-value]
    if format == "torchscript":
        return torch.jit.load(os.fspath(path))  # type: ignore[no-any-return, no-untyped-call]
    need("onnxruntime", "running an ONNX file")
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(images: Tensor) -> dict[str, Tensor]:
        found = session.run(names, {"images": images.numpy()})
        return dict(zip(names, map(torch.from_numpy, found), strict=True))

    return run


def largest_difference(subject: Subject, path: StrPath, format: str, dynamic: bool) -> float:
    """The largest difference of a file's outputs from the model's, over their largest value.

    It is run at the size of its making and, where sizes are free, at two others.

    Raises:
        InputError: onnxruntime is not installed, or an output has another shape.
    """
    run, worst = run_file(path, format), 0.0
    examples = [subject.example(dynamic)]
    if dynamic and subject.batched:
        least = subject.least
        examples += [examples[0][:1, ..., : least + UNIT, :least], examples[0][:1, ..., :least, :]]
    with torch.no_grad():
        for example in examples:
            expected, found = subject.model(example), run(example.contiguous())
            for name in subject.outputs:
                if found[name].shape != expected[name].shape:
                    shapes = f"{tuple(found[name].shape)}, the model's {tuple(expected[name].shape)}"
                    raise InputError(f"{path}: run as a check it gives {name} of shape {shapes}")
                if found[name].numel():
                    off = (found[name] - expected[name]).abs().max() / expected[name].abs().max().clamp(min=1e-12)
                    worst = max(worst, float(off))
    return worst


def _shapes(subject: Subject, dynamic: bool) -> dict[str, Any] | None:
    """Which sides are free, for exporters."""
    if not dynamic:
        return None
    least = subject.least // UNIT
    rows, cols = (torch.export.Dim(name, min=least, max=2**12) for name in ("unit_rows", "unit_cols"))
    last = len(subject.shape)
    return {"images": {0: torch.export.Dim("batch", min=1, max=2**12), last - 1: UNIT * rows, last: UNIT * cols}}


def _metadata(subject: Subject) -> dict[str, Any]:
    from hiera_det import __version__

    return {"hiera_det": __version__, "part": subject.part, **subject.facts}


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporters' remarks on their own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
