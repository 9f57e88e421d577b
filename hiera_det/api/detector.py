"""Training a detector from Python."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hiera_det.api.keys import KEYS, Data, data_fields, key_words, opts_of, own_data
from hiera_det.api.needs import need_detectron2
from hiera_det.api.run import Run
from hiera_det.api.words import called_from_python
from hiera_det.engine.launch import TIMEOUT
from hiera_det.engine.opts import Opts, pairs_of, words_of
from hiera_det.engine.record import check_asked
from hiera_det.errors import InputError
from hiera_det.files import StrPath

if TYPE_CHECKING:
    from hiera_det.d2.config.request import RunRequest

__all__ = ["resume_detector", "train_detector"]

#: Arguments that say where a training runs.
MACHINES = ("num_gpus", "num_machines", "machine_rank", "dist_url", "timeout")
#: Keys that say the same as another.
EITHER = {"SOLVER.EPOCHS": "SOLVER.MAX_ITER", "SOLVER.MAX_ITER": "SOLVER.EPOCHS"}


def train_detector(
    config: StrPath,
    *,
    train: Data | Sequence[Data] | None = None,
    val: Data | Sequence[Data] | None = None,
    data: StrPath | None = None,
    split: float | None = None,
    output: StrPath | None = None,
    weights: StrPath | None = None,
    epochs: float | None = None,
    iterations: int | None = None,
    batch_size: int | None = None,
    accumulate: int | None = None,
    learning_rate: float | None = None,
    image_size: int | None = None,
    freeze: int | None = None,
    ema: float | bool | None = None,
    precision: str | None = None,
    eval_epochs: float | None = None,
    checkpoint_epochs: float | None = None,
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
    opts: Opts = (),
    callbacks: Sequence[object] = (),
) -> Run:
    """Train a detector, as ``hiera-det train`` does: the same settings give the same weights.

    What is not given is the config's. The process is left as it was found: its random numbers, loggers,
    signal handlers, threads, working directory.

    Args:
        config: a YAML file, or the name of one of ours, such as ``mask_rcnn_hiera_t``.
        train: COCO JSON and images folder to train on, or a list of such pairs, which are merged by the names of their
            classes; None for the config's ``DATASETS.TRAIN``.
        val: the same to evaluate on.
        data: in their place the folder of a data set as Roboflow, YOLO, VOC, labelme or COCO have it.
        split: part of the images of ``train`` to train on, such as 0.8; the others are evaluated on.
        output: folder for checkpoints, metrics and pictures.
        weights: what to start from: a file, URL, ``hf://`` or ``timm://``; "" for random weights.
        epochs: passes over the images; the learning rate's schedule follows.
        iterations: steps of the optimizer, in place of ``epochs``.
        batch_size: images of a step, of all processes together; the config's learning rate and number of iterations
            follow (``SOLVER.SCALING``).
        accumulate: forward and backward passes per step, each of a part of ``batch_size``, to save memory.
        learning_rate: of the heads, at this very ``batch_size``.
        image_size: of training and evaluation, in pixels: the side of the square of large-scale jitter where the config
            has it, otherwise the shorter side.
        freeze: parts of the trunk that do not learn: 1 the stem, 2 to 5 also stages 1 to 4; 0 for none.
        ema: decay per step of an average of the weights, which is evaluated and kept too; True for 0.9998.
        precision: ``float32``, ``bfloat16`` or, on GPUs, ``float16``.
        eval_epochs: epochs from an evaluation to the next.
        checkpoint_epochs: epochs from a checkpoint to the next.
        best: metric whose best weights are kept (`Run.best`), such as ``segm/AP`` or ``val_loss``, or "" for none; by
            default box AP, of the weights or their average, whichever is better.
        patience: evaluations in a row without a better one that end the training.
        seed: of all that is random; drawn where there is none.
        num_workers: processes that read images, for each that trains.
        device: ``cuda`` or ``cpu``; by default a GPU where there is one.
        compile: run the trunk through torch.compile.
        num_gpus: processes on this machine, on the CPU too.
        num_machines: how many machines call this.
        machine_rank: the number of this one among them.
        dist_url: ``tcp://host:port`` of the first machine.
        timeout: minutes for which a process waits for the others.
        resume: go on from the last checkpoint in ``output``.
        auto_resume: go on where there is a checkpoint, else start.
        allow_changed: keys or arguments that may differ from the checkpoint's.
        opts: other config keys, ``{"SOLVER.WEIGHT_DECAY": 0.05}`` or keys and values in turn; docs/config_keys.md has
            them.
        callbacks: objects with methods of `hiera_det.Callback`, or detectron2's hooks.

    Returns:
        the run; `hiera_det.open_run` opens it again later.

    Raises:
        InputError: something cannot be used; one line that names the argument.
        KeyboardInterrupt: Ctrl-C or another signal stopped it, after a checkpoint; ``resume=True`` goes on.
    """
    given = {name: value for name, value in locals().items() if name in KEYS and value is not None}
    need_detectron2()
    from hiera_det.d2.config.request import RunRequest

    if os.fspath(config).endswith(".py"):
        raise InputError(f"config {os.fspath(config)}: is a LazyConfig; train it by hiera-det train-lazy")
    with called_from_python(key_words(opts)):
        words = opts_of(given, os.fspath(config), image_size, precision, opts)
        own = own_data(train, val, data, split, lambda: os.path.join(output_of(os.fspath(config), words), "data"))
        request = RunRequest(
            config_file=os.fspath(config),
            opts=words,
            **own,
            num_gpus=num_gpus,
            num_machines=num_machines,
            machine_rank=machine_rank,
            dist_url=dist_url,
            timeout=timeout,
            resume=resume,
            auto_resume=auto_resume,
            allow_changed=tuple(KEYS.get(name, name) for name in allow_changed),
        )
        return Run(start_request(request, callbacks))


def start_request(request: RunRequest, callbacks: Sequence[object] = ()) -> str:
    """Train what a request asks for; the folder of the run.

    Raises:
        InputError: something cannot be used, by the names of keys and flags.
    """
    from hiera_det.d2.train.run import start

    start(request, callbacks=callbacks)
    return output_of(request.config_file, request.opts)


def output_of(config: str, opts: Sequence[Any]) -> str:
    """The folder of a run."""
    from hiera_det.d2.config.load import load_config

    return str(load_config(config, opts).OUTPUT_DIR)


def resume_detector(
    output: str, asked: Mapping[str, Any], changes: dict[str, Any], callbacks: Sequence[object]
) -> None:
    """Go on with a detector's training.

    Args:
        output: its folder.
        asked: fields of the request that it began with.
        changes: arguments of `train_detector` that are to be others.
        callbacks: as there.

    Raises:
        InputError: there is no checkpoint, or a change cannot be.
    """
    need_detectron2()
    from hiera_det.d2.config.changes import WITHOUT_WEIGHT
    from hiera_det.d2.config.request import RunRequest

    check_asked(output, asked, RunRequest.__dataclass_fields__)
    if str(asked.get("config_file")).endswith(".py"):
        raise InputError(f"{output}: was trained from a LazyConfig; go on by hiera-det train-lazy --resume")
    opts = pairs_of(changes.pop("opts", ()))
    with called_from_python(key_words(opts)):
        given = {name: changes.pop(name) for name in KEYS if name in changes}
        sizes = changes.pop("image_size", None), changes.pop("precision", None)
        new = pairs_of(opts_of(given, asked["config_file"], *sizes, opts))
        fields = {**data_fields("train", changes.pop("train", None)), **data_fields("val", changes.pop("val", None))}
        fields |= {name: changes.pop(name) for name in MACHINES if name in changes}
        if changes:
            raise InputError(f"resume: {next(iter(changes))} is no argument of train_detector that can be another")
        before = {key: value for key, value in pairs_of(asked["opts"]).items() if EITHER.get(key) not in new}
        request = RunRequest(
            **{**asked, **fields, "opts": words_of({**before, **new, "OUTPUT_DIR": output})},
            resume=True,
            allow_changed=tuple(key for key in new if not WITHOUT_WEIGHT.fullmatch(key)),
        )
        start_request(request, callbacks)
