"""Checkpoints: published weights in, a detector's own in and out; nothing unpickled, nothing half-written."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from detectron2.utils import comm
from torch import Tensor, nn

from hiera_det.data.class_rows import move_class_rows
from hiera_det.data.classes import listed, match_classes, same_classes_order, told
from hiera_det.engine.best import Best, told_best
from hiera_det.engine.checkpoint import BEST, Checkpoints, check_iteration, goes_on
from hiera_det.engine.ema import EMA
from hiera_det.engine.sharding import gather, is_sharded, like, unwrap
from hiera_det.errors import InputError
from hiera_det.files import StrPath
from hiera_det.modeling.hiera import HieraBase
from hiera_det.weights.contents import DETECTOR, DETECTOR_PREFIX, not_a_float, parse
from hiera_det.weights.download import locate
from hiera_det.weights.load import LoadReport, fit
from hiera_det.weights.sources import read_weight_file
from hiera_det.weights.tensors import FLOATS
from hiera_det.weights.training_state import check_training_state

__all__ = [
    "HieraCheckpointer",
    "check_weights",
    "decide_resume",
    "last_checkpoint",
    "local_weights",
]

logger = logging.getLogger("hiera_det.checkpoint")


def local_weights(weights: StrPath) -> str:
    """Bring ``MODEL.WEIGHTS`` to this machine.

    Args:
        weights: anything that `hiera_det.weights.download.locate` takes, an address that detectron2's path manager
            knows, or "" for none.

    Returns:
        a local path, or "".

    Raises:
        InputError: it cannot be downloaded, or there is no such file.
    """
    weights = os.fspath(weights)
    if not weights:
        return ""
    if weights.startswith(("detectron2://", "catalog://", "s3://")):
        return _from_path_manager(weights)
    try:
        return str(locate(weights))
    except InputError as error:
        raise InputError(f'MODEL.WEIGHTS: {error}; MODEL.WEIGHTS "" trains from scratch') from None


def _from_path_manager(address: str) -> str:
    """What detectron2's path manager makes of an address."""
    try:
        path = DetectionCheckpointer(nn.Module()).path_manager.get_local_path(address)
        why = "" if os.path.isfile(path) else "it knows no such address"
    except (OSError, KeyError, ValueError, RuntimeError) as error:  # its handlers': no network, no such model
        why = f"{type(error).__name__}: {error}"
    if why:
        raise InputError(f"MODEL.WEIGHTS {address}: detectron2's path manager gives no file ({why}); give one's path")
    return str(path)


def check_weights(cfg: CfgNode) -> None:
    """Refuse a ``MODEL.WEIGHTS`` that does not fit the trunk, before workers start and each would say so.

    Raises:
        InputError: see `hiera_det.weights.load.load_weights`.
    """
    if not cfg.MODEL.WEIGHTS:
        return
    contents = parse(read_weight_file(cfg.MODEL.WEIGHTS), cfg.MODEL.WEIGHTS)
    with torch.device("meta"):  # shapes only
        backbone = build_backbone(cfg)
    fit(contents, _find_trunk(backbone)[1])


def last_checkpoint(folder: str) -> str:
    """Path of the checkpoint from which a run in this output folder would resume, not yet looked at.

    Raises:
        InputError: there is none.
    """
    found = Checkpoints(folder).candidates()
    if not found:
        raise InputError(f"--resume: no checkpoint in {folder}; leave --resume out, or set OUTPUT_DIR")
    return str(found[0])


def decide_resume(folder: str, *, resume: bool, auto_resume: bool) -> bool:
    """Whether a training goes on from a checkpoint of its output folder; all processes must ask.

    It does where it was asked to (``--resume``); and where there is a checkpoint, if it was asked to find out
    (``--auto-resume``) or torchrun has lost a process of this very run and started all anew.

    Raises:
        InputError: a training is there, and nobody asked to go on.
    """
    go_on = goes_on(folder, resume, auto_resume, "OUTPUT_DIR")
    comm.synchronize()  # before the first process writes anything that others look for
    return go_on


class HieraCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer with every published layout, safe reading and atomic writing."""

    #: The classes in the order of their indices, ``{"id": id in the JSON, "name": name}``, saved with the model.
    categories: Sequence[dict[str, Any]] = ()
    #: The average of the weights, saved in a file of its own.
    ema: EMA | None = None
    #: What a training that goes on must agree in, saved with the model.
    settings: Mapping[str, Any] = MappingProxyType({})
    #: How many numbered checkpoints stay; 0 for all.
    keep = 0
    #: Steps from one checkpoint that is to stay to the next; see `Checkpoints`.
    period = 0
    #: Whether a file must fit the heads too, as when resuming or evaluating; otherwise they may start fresh.
    _whole_model = False
    #: A checkpoint that was looked at before it is loaded.
    _already_read: Mapping[str, dict[str, Any]] = MappingProxyType({})
    #: Names of the classes of each data set that the model is to be evaluated on; a file must be of the same.
    evaluated: Mapping[str, Sequence[str]] = MappingProxyType({})
    #: What became of the tensors of the file that was loaded last.
    report: LoadReport | None = None

    def load(self, path: StrPath, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a file into the model; see `local_weights` for what ``path`` may be."""
        return super().load(local_weights(path), *args, **kwargs)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Resume from the newest good checkpoint of the output folder, or load ``path``.

        Raises:
            InputError: asked to resume where there is no checkpoint, or where it is another model's or optimizer's.
        """
        if not resume:
            return super().resume_or_load(path, resume=False)
        path, state = Checkpoints(self.save_dir).newest_good(self._read_training)
        self._already_read = {path: state}
        logger.info("resuming from %s", path)
        try:
            return self.load_detector(path)
        except InputError:
            raise
        # Parameter groups that differ, a scaler missing, or parts of another kind.
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise InputError(f"--resume: {path} does not fit the settings ({error}); resume with its own") from None

    def _read_training(self, path: str) -> dict[str, Any]:
        """A training's checkpoint, looked at.

        Raises:
            InputError: it is damaged, or lacks what going on takes.
        """
        state = read_weight_file(path)
        trainer = state.get("trainer")
        whole = isinstance(trainer, dict) and "_trainer" in trainer if "trainer" in self.checkpointables else True
        if not whole or any(key not in state for key in self.checkpointables):
            raise InputError(
                f"--resume: {path} holds no optimizer state; give it as MODEL.WEIGHTS and leave --resume out"
            )
        check_iteration(path, state.get("iteration", 0))
        check_training_state(state, path)
        return state

    def load_detector(self, path: StrPath) -> dict[str, Any]:
        """Load a file that must fit the whole model, as for evaluation: nothing may stay random unseen.

        Raises:
            InputError: it is not a trained detector's file, or another model's.
        """
        self._whole_model = True
        try:
            loaded = self.load(path)
        finally:
            self._whole_model = False
        told = f", the best: {told_best(loaded['best'])}" if "best" in loaded else ""
        logger.info("weights: %s%s", os.fspath(path), told)
        return loaded

    @property
    def origin(self) -> str:
        """Where the weights came from, half a sentence."""
        if self.report is None:
            return "no weights were loaded: the model began with random ones"
        loaded, fresh = len(self.report.loaded), len(self.report.initialised)
        return f"{loaded} of the model's {loaded + fresh} tensors came from {self.report.source}"

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name``.pth in one step: a reader sees the old file or the new one, never a part.

        ``name``_ema.pth beside it has the averaged weights, where there are some. Where processes share the model, all
        must call this, and the first writes.
        """
        if not self.save_dir or not (self.save_to_disk or is_sharded(self.model)):
            return
        categories = {"categories": list(self.categories)} if self.categories else {}
        kwargs |= {"settings": dict(self.settings)} if self.settings else {}
        data = {"model": self.model.state_dict()}
        data |= {key: obj.state_dict() for key, obj in self.checkpointables.items()}
        data = gather(data)  # by all processes, where they share the model
        averaged = {"model": self.ema.model_state()} if self.ema else None
        if not self.save_to_disk:
            return
        files = Checkpoints(self.save_dir, self.keep, self.period)
        if averaged:
            files.write(f"{name}_ema.pth", averaged | categories)
        files.save(f"{name}.pth", data | categories | kwargs)
        logger.info("saved %s", Path(self.save_dir) / f"{name}.pth")

    def save_best(self, best: Best) -> None:
        """Write the weights, or their average, to ``model_best.pth``; all processes must call it.

        Args:
            best: what they are the best by; the same in all processes, as far as averages go.
        """
        state = self.ema.model_state() if best.averaged and self.ema else gather(self.model.state_dict())
        if self.save_to_disk:
            content = {"model": state, "best": best.state_dict()}
            content |= {"categories": list(self.categories)} if self.categories else {}
            Checkpoints(self.save_dir).write(BEST, content)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the newest checkpoint in ``last_checkpoint``, in one step."""
        Checkpoints(self.save_dir).tag(last_filename_basename)

    def _load_file(self, filename: str) -> dict[str, Any]:
        """Read a file without unpickling code; every known layout is turned into the model's names."""
        loaded = self._already_read.get(filename) or read_weight_file(filename)
        self._already_read = MappingProxyType({})
        contents = parse(loaded, filename)
        if self._whole_model and not contents.is_detector:
            raise InputError(
                f"weight file {filename} holds a trunk and no detection heads: "
                "give a trained detector's file, for example MODEL.WEIGHTS output/model_final.pth"
            )
        saved = saved_categories(loaded, filename)
        self._check_evaluated(saved, filename)
        prefix, trunk = self._trunk()
        tensors, report = fit(contents, trunk)
        model = {prefix + name: tensor for name, tensor in tensors.items()}
        if not contents.is_detector:
            self.report = report
            # The rest of the model as it is: to fvcore it is then nothing that the file lacks.
            return {"model": {**unwrap(self.model).state_dict(), **model}}
        around = contents.prefix.removesuffix(DETECTOR_PREFIX)
        others = {name.removeprefix(around): tensor for name, tensor in contents.others.items()}
        self.report = replace(report, loaded=(*report.loaded, *others), dropped=())
        checkpoint = loaded if contents.container else {}
        by_class = self._rows_by_class(others, saved, filename)
        return {**checkpoint, "model": {**others, **by_class, **model}}

    def _check_evaluated(self, saved: Sequence[Mapping[str, Any]], source: str) -> None:
        """Refuse a file of other classes than those of the data that it is to be evaluated on."""
        for data, names in self.evaluated.items():
            if saved and names:
                same_classes_order([category["name"] for category in saved], names, source, data)

    def _rows_by_class(self, tensors: dict[str, Tensor], saved: list[dict[str, Any]], source: str) -> dict[str, Tensor]:
        """The rows of a file's heads where the data have the classes of their names; none where they are there already.

        Raises:
            InputError: a training is to go on, and the classes are not those that it began with.
        """
        names, own = ([category["name"] for category in categories] for categories in (saved, self.categories))
        match = match_classes(names, own)
        if not names or not own or match.is_same_order:
            return {}
        if self._whole_model:
            raise InputError(
                f"--resume: {source} is of the classes {listed(names)}, and the data has {listed(own)}: resume with "
                "its own data, or give it as MODEL.WEIGHTS without --resume, which takes over classes of equal names"
            )
        logger.info("%s: %s", source, told(match))
        model = unwrap(self.model).state_dict()
        fresh = gather({name: model[name] for name in tensors if name in model})
        return move_class_rows(tensors, fresh, match, len(names))

    def _load_model(self, checkpoint: Any) -> Any:
        """Load, say what became of the tensors, and refuse what leaves a detector to be evaluated partly random."""
        assert self.report is not None  # of the file that the checkpoint is from
        own = self.model.state_dict()
        tensors = checkpoint["model"].items()
        for name, tensor in tensors:
            if name in own and own[name].is_floating_point() and tensor.dtype not in FLOATS:
                raise not_a_float(name, tensor, self.report.source)
        checkpoint["model"] = {name: like(tensor, own[name]) if name in own else tensor for name, tensor in tensors}
        incompatible = super()._load_model(checkpoint)
        reshaped = [key for key, *_ in incompatible.incorrect_shapes]
        fresh = [*reshaped, *(key for key in incompatible.missing_keys if key not in reshaped)]
        if fresh and self._whole_model:
            named = ", ".join(fresh[:3]) + (", ..." if len(fresh) > 3 else "")
            raise InputError(
                f"checkpoint {self.report.source} lacks {len(fresh)} tensors of the model or has them in another "
                f"shape ({named}): use the config and data that it was trained with"
            )
        dropped = (*self.report.dropped, *reshaped, *incompatible.unexpected_keys)
        loaded = tuple(name for name in self.report.loaded if name not in dropped)
        if self.report.kind != DETECTOR:
            fresh = self._beside_the_trunk()
        self.report = replace(self.report, loaded=loaded, dropped=dropped, initialised=tuple(fresh))
        logger.info("%s", self.report)
        return incompatible

    def _beside_the_trunk(self) -> list[str]:
        """Names of the model's tensors that are not the trunk's."""
        return [name for name in unwrap(self.model).state_dict() if not name.startswith(self._trunk()[0])]

    def _trunk(self) -> tuple[str, HieraBase]:
        """The Hiera trunk inside the model and the prefix of its parameters' names."""
        return _find_trunk(unwrap(self.model))


def saved_categories(loaded: Mapping[str, Any], source: str) -> list[dict[str, Any]]:
    """The classes that a detector's file names, in the order of their indices; none where it does not.

    Raises:
        InputError: the entry is something else.
    """
    categories = loaded.get("categories") or []
    if not isinstance(categories, list) or not all(
        isinstance(category, dict) and isinstance(category.get("name"), str) and isinstance(category.get("id"), int)
        for category in categories
    ):
        raise InputError(f'weight file {source}: its "categories" are no list of {{"id": number, "name": text}}')
    return categories


def _find_trunk(model: nn.Module) -> tuple[str, HieraBase]:
    """The Hiera trunk inside a model and the prefix of its parameters' names."""
    for name, module in model.named_modules():
        if isinstance(module, HieraBase):
            return f"{name}." if name else "", module
    raise InputError("the model has no Hiera trunk: set MODEL.BACKBONE.NAME to one of build_hiera_*")
