"""Training classifiers, masked autoencoders and torchvision's detectors from Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

from hiera_det.api.keys import Data, data_fields
from hiera_det.api.run import Run
from hiera_det.api.words import called_from_python
from hiera_det.engine.launch import TIMEOUT
from hiera_det.engine.record import check_asked
from hiera_det.engine.settings import EMA_DECAY, PYTHON_WORDS
from hiera_det.errors import InputError
from hiera_det.files import StrPath

if TYPE_CHECKING:
    from hiera_det.tasks.settings import TaskSettings

__all__ = ["pretrain_mae", "resume_plain", "train_classifier", "train_torchvision"]

#: Fields of the settings by the words that they have here.
FIELDS = {word: name for name, word in PYTHON_WORDS.items()}
MACHINES = ("num_gpus", "num_machines", "machine_rank", "dist_url", "timeout")


def train_classifier(
    *,
    train: StrPath,
    val: StrPath,
    output: StrPath,
    size: str | None = None,
    weights: StrPath | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    accumulate: int | None = None,
    learning_rate: float | None = None,
    ema: float | bool | None = None,
    precision: str | None = None,
    eval_epochs: int | None = None,
    checkpoint_epochs: int | None = None,
    best: str | None = None,
    patience: int | None = None,
    seed: int | None = None,
    num_workers: int | None = None,
    device: str | None = None,
    compile: bool | None = None,
    num_gpus: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    timeout: float = TIMEOUT,
    resume: bool = False,
    auto_resume: bool = False,
    allow_changed: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    callbacks: Sequence[object] = (),
) -> Run:
    """Train a classifier on folders of images, as ``hiera-det train-classifier`` does.

    What is not given is the published recipe's of the size. The process is left as it was found.

    Args:
        train: folder of a folder per class; of videos with weights of a video model, or ``frames`` in ``settings``.
        val: the same classes, to evaluate on.
        output: folder for checkpoints, metrics and curves.
        size: published size; by default that of ``weights``, else base.
        weights: what to start from: a file, URL, ``hf://`` or ``timm://``; from random weights where there is none.
        image_size: side of the images in pixels.
        epochs: passes over the images.
        batch_size: images of a step, of all processes together.
        accumulate: forward and backward passes per step, to save memory.
        learning_rate: the highest, at this very ``batch_size``; the recipe's is scaled to it.
        ema: decay per step of an average of the weights, which is evaluated and kept too; True for 0.9998.
        precision: ``float32``, ``bfloat16`` or, on GPUs, ``float16``.
        eval_epochs: epochs from an evaluation to the next.
        checkpoint_epochs: epochs from a checkpoint to the next.
        best: metric whose best weights are kept (`Run.best`): ``top1`` unless another, or "" for none, is given.
        patience: evaluations in a row without a better one that end the training.
        seed: of all that is random.
        num_workers: processes that read images, for each that trains.
        device: ``cuda`` or ``cpu``; by default a GPU where there is one.
        compile: run the model through torch.compile.
        num_gpus: processes on this machine, on the CPU too.
        num_machines: how many machines call this.
        machine_rank: the number of this one among them.
        dist_url: ``tcp://host:port`` of the first machine.
        timeout: minutes for which a process waits for the others.
        resume: go on from the checkpoint in ``output``.
        auto_resume: go on where there is a checkpoint, else start.
        allow_changed: arguments or settings that may differ from the checkpoint's.
        settings: other fields of `hiera_det.tasks.settings.ClassifierSettings`, such as ``{"mixup": 0.0}``.
        callbacks: objects with methods of `hiera_det.Callback`.

    Returns:
        the run; `hiera_det.open_run` opens it again later.

    Raises:
        InputError: something cannot be used; one line that names the argument.
        KeyboardInterrupt: Ctrl-C or another signal stopped it, after a checkpoint; ``resume=True`` goes on.
    """
    return _train("classify", dict(locals()))


def pretrain_mae(
    images: StrPath | None = None,
    *,
    videos: StrPath | None = None,
    val: StrPath | None = None,
    output: StrPath,
    size: str | None = None,
    mask_ratio: float | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    accumulate: int | None = None,
    learning_rate: float | None = None,
    ema: float | bool | None = None,
    precision: str | None = None,
    eval_epochs: int | None = None,
    checkpoint_epochs: int | None = None,
    best: str | None = None,
    patience: int | None = None,
    seed: int | None = None,
    num_workers: int | None = None,
    device: str | None = None,
    compile: bool | None = None,
    num_gpus: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    timeout: float = TIMEOUT,
    resume: bool = False,
    auto_resume: bool = False,
    allow_changed: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    callbacks: Sequence[object] = (),
) -> Run:
    """Pretrain a masked autoencoder on images or videos without labels, as ``hiera-det pretrain`` does.

    Args besides those of `train_classifier`:
        images: folder of images, at any depth.
        videos: folder of videos, in place of images.
        val: folder of others, on which the same loss is measured; by it, ``val_loss``, are the best weights kept.
        mask_ratio: part that is left out; 0.6, of clips 0.9.
        settings: other fields of `hiera_det.tasks.settings.PretrainSettings`, such as ``{"decoder_depth": 4}``.

    Returns:
        the run, whose ``last`` is what detectors and classifiers start from: ``weights=run.last``.

    Raises:
        InputError: something cannot be used; one line that names the argument.
        KeyboardInterrupt: Ctrl-C or another signal stopped it, after a checkpoint; ``resume=True`` goes on.
    """
    return _train("pretrain", dict(locals()))


def train_torchvision(
    detector: str = "maskrcnn",
    *,
    train: Data,
    val: Data | None = None,
    output: StrPath,
    size: str | None = None,
    weights: StrPath | None = None,
    image_size: int | None = None,
    options: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    accumulate: int | None = None,
    learning_rate: float | None = None,
    ema: float | bool | None = None,
    precision: str | None = None,
    eval_epochs: int | None = None,
    checkpoint_epochs: int | None = None,
    best: str | None = None,
    patience: int | None = None,
    seed: int | None = None,
    num_workers: int | None = None,
    device: str | None = None,
    compile: bool | None = None,
    num_gpus: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    timeout: float = TIMEOUT,
    resume: bool = False,
    auto_resume: bool = False,
    allow_changed: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    callbacks: Sequence[object] = (),
) -> Run:
    """Train a detector of torchvision's on a COCO JSON, as ``hiera-det train --framework torchvision`` does.

    Args besides those of `train_classifier`:
        detector: ``maskrcnn``, ``fasterrcnn``, ``retinanet`` or ``fcos``.
        train: COCO JSON and images folder to train on.
        val: those to evaluate on; None for no evaluation.
        weights: of the trunk.
        image_size: shorter side of the images in pixels; 800 unless another is given.
        options: more arguments of the detector's, such as ``{"box_score_thresh": 0.01}``.
        settings: other fields of `hiera_det.adapters.torchvision.settings.DetectorSettings`, such as
            ``{"max_size": 1024}``.

    Returns:
        the run; `hiera_det.adapters.torchvision.load_detector` reads its weights.

    Raises:
        InputError: something cannot be used; one line that names the argument.
        KeyboardInterrupt: Ctrl-C or another signal stopped it, after a checkpoint; ``resume=True`` goes on.
    """
    arguments = dict(locals())
    data = data_fields("train", arguments.pop("train")) | data_fields("val", arguments.pop("val"))
    return _train("torchvision", arguments | data)


class Kind(NamedTuple):
    """A plain task: its settings, its training, and what is read before several processes are started."""

    settings: type[TaskSettings]
    train: Callable[..., int]
    check: Callable[..., object]


def _kind(task: str) -> Kind:
    if task == "classify":
        from hiera_det.tasks.classify.train import read_inputs, train
        from hiera_det.tasks.settings import ClassifierSettings

        return Kind(ClassifierSettings, train, read_inputs)
    if task == "torchvision":
        from hiera_det.adapters.torchvision.settings import DetectorSettings
        from hiera_det.adapters.torchvision.train import read_inputs as check
        from hiera_det.adapters.torchvision.train import train as train_detector

        return Kind(DetectorSettings, train_detector, check)
    from hiera_det.tasks.pretrain.train import pretrain
    from hiera_det.tasks.pretrain.train import read_inputs as find
    from hiera_det.tasks.settings import PretrainSettings

    return Kind(PretrainSettings, pretrain, find)


def _train(task: str, arguments: dict[str, Any]) -> Run:
    """Train what the arguments of a public function say."""
    from hiera_det.tasks.processes import train_everywhere

    kind, callbacks = _kind(task), arguments.pop("callbacks")
    machines = {name: arguments.pop(name) for name in MACHINES}
    with called_from_python():
        settings = kind.settings(words=PYTHON_WORDS, **_fields(kind.settings, arguments))
        train_everywhere(kind.train, kind.check, settings, callbacks, **machines)
        return Run(settings.output)


def _fields(settings: type[TaskSettings], arguments: dict[str, Any]) -> dict[str, Any]:
    """Fields of settings from arguments.

    Raises:
        InputError: ``settings`` has a field that there is not, or one that an argument sets too.
    """
    rest = dict(arguments.pop("settings") or {})
    given = {FIELDS.get(name, name): _plain(name, value) for name, value in arguments.items() if value is not None}
    names = {field.name for field in fields(settings)} - {"words"}
    for name in rest:
        if name not in names or name in PYTHON_WORDS:
            hint = (
                f"give {PYTHON_WORDS[name]}="
                if name in PYTHON_WORDS
                else f"there are {', '.join(sorted(names - given.keys() - PYTHON_WORDS.keys()))}"
            )
            raise InputError(f"settings {name}: no such setting; {hint}")
        if name in given:
            raise InputError(f"settings {name} {rest[name]}: the argument {name} sets it too; keep one of them")
    given["allow_changed"] = tuple(given.get("allow_changed", ()))
    return given | rest


def _plain(name: str, value: Any) -> Any:
    if name == "ema" and value is True:
        return EMA_DECAY
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def resume_plain(
    task: str, output: str, asked: Mapping[str, Any], changes: dict[str, Any], callbacks: Sequence[object]
) -> None:
    """Go on with a plain training; see `hiera_det.api.resume.resume`."""
    from hiera_det.tasks.processes import train_everywhere

    kind = _kind(task)
    asked = dict(asked)
    machines = {"num_gpus": asked.pop("num_gpus", 1)} | {
        name: changes.pop(name) for name in MACHINES if name in changes
    }
    more = dict(changes.pop("settings", {}))
    new = {FIELDS.get(name, name): _plain(name, value) for name, value in changes.items()} | more
    names = {field.name for field in fields(kind.settings)} - {"words", "output", "resume", "auto_resume"}
    check_asked(output, asked, {field.name for field in fields(kind.settings)})
    if unknown := new.keys() - names:
        raise InputError(f"resume: {unknown.pop()} is no argument of the training that can be another")
    with called_from_python():
        changed = tuple(name for name in new if name in kind.settings.compared)
        fixed = {"output": output, "resume": True, "allow_changed": changed}
        settings = kind.settings(words=PYTHON_WORDS, **{**asked, **new, **fixed})
        train_everywhere(kind.train, kind.check, settings, callbacks, **machines)
