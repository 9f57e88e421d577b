"""Checkpoints: the authors' weights in, a detector's own in and out; nothing unpickled, nothing half-written."""

from __future__ import annotations

import logging
import os
import urllib.error
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hiera_det.errors import InputError
from hiera_det.modeling.hiera import Hiera
from hiera_det.weights.layouts import is_official, require_tensors, select_trunk
from hiera_det.weights.sources import read_weight_file

__all__ = ["HieraCheckpointer", "last_checkpoint", "local_weights"]

logger = logging.getLogger("hiera_det.checkpoint")


def local_weights(weights: str) -> str:
    """Bring ``MODEL.WEIGHTS`` to this machine.

    Args:
        weights: a path, an http(s) URL (kept in the cache), or "" for none.

    Returns:
        a local path, or "".

    Raises:
        InputError: it cannot be downloaded, or there is no such file.
    """
    if not weights:
        return ""
    if not weights.startswith(("http://", "https://")):
        path = DetectionCheckpointer(nn.Module()).path_manager.get_local_path(weights)
        if not os.path.isfile(path):
            raise InputError(f'MODEL.WEIGHTS {weights}: no such file; MODEL.WEIGHTS "" trains from scratch')
        return path
    return _download(weights)


def last_checkpoint(folder: str) -> str:
    """Path of the checkpoint from which a run in this output folder resumes.

    Raises:
        InputError: there is none, or ``last_checkpoint`` names a file that is not there.
    """
    tag = Path(folder) / "last_checkpoint"
    if not tag.is_file():
        raise InputError(f"--resume: no checkpoint in {folder}; leave --resume out, or set OUTPUT_DIR")
    name = tag.read_text().strip()
    path = tag.parent / name
    if not path.is_file():
        raise InputError(f"--resume: {tag} names {name!r}, which is not there; write the name of another into it")
    return str(path)


def _download(url: str) -> str:
    """The cached file of a URL, downloaded where there is none yet."""
    from torch.hub import download_url_to_file, get_dir

    cached = Path(get_dir()) / "checkpoints" / os.path.basename(url)
    if cached.is_file():
        return str(cached)
    logger.info("downloading %s to %s", url, cached)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        download_url_to_file(url, str(cached), progress=comm.is_main_process())
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(
            f"cannot download {url} ({reason}): download it by hand to {cached}, "
            'or give another file as MODEL.WEIGHTS; MODEL.WEIGHTS "" trains from scratch'
        ) from None
    return str(cached)


class HieraCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer with the authors' layout, safe reading and atomic writing."""

    #: Whether a file must fit the heads too, as when resuming or evaluating; otherwise they may start fresh.
    _whole_model = False
    #: The file being loaded, for messages.
    _filename = ""

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a file into the model; see `local_weights` for what ``path`` may be."""
        return super().load(local_weights(path), *args, **kwargs)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Resume from the last checkpoint of the output folder, or load ``path``.

        Raises:
            InputError: asked to resume where there is no checkpoint, or where it is another model's or optimizer's.
        """
        if not resume:
            return super().resume_or_load(path, resume=False)
        path = last_checkpoint(self.save_dir)
        try:
            return self.load_detector(path)
        except InputError:
            raise
        except (ValueError, KeyError) as error:  # parameter groups that differ; mixed precision's scaler missing
            raise InputError(f"--resume: {path} does not fit the settings ({error}); resume with its own") from None

    def load_detector(self, path: str) -> dict[str, Any]:
        """Load a file that must fit the whole model, as for evaluation: nothing may stay random unseen.

        Raises:
            InputError: it is not a trained detector's file, or another model's.
        """
        self._whole_model = True
        try:
            return self.load(path)
        finally:
            self._whole_model = False

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name``.pth in one step: a reader sees the old file or the new one, never a part."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data |= {key: obj.state_dict() for key, obj in self.checkpointables.items()}
        target = Path(self.save_dir) / f"{name}.pth"
        self.logger.info(f"Saving checkpoint to {target}")
        partial = target.with_suffix(".pth.partial")
        try:
            with open(partial, "wb") as file:
                torch.save(data | kwargs, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
        self.tag_last_checkpoint(target.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the newest checkpoint in ``last_checkpoint``, in one step."""
        tag = Path(self.save_dir) / "last_checkpoint"
        partial = tag.with_suffix(".partial")
        partial.write_text(last_filename_basename)
        os.replace(partial, tag)

    def _load_file(self, filename: str) -> dict[str, Any]:
        """Read a file without unpickling code; the authors' layout is turned into the model's names."""
        self._filename = filename
        loaded = read_weight_file(filename)
        if is_official(loaded):
            if self._whole_model:
                raise InputError(
                    f"weight file {filename} holds a trunk and no detection heads: "
                    "give a trained detector's file, for example MODEL.WEIGHTS output/model_final.pth"
                )
            return {"model": self._from_official(loaded, filename)}
        checkpoint = loaded if "model" in loaded else {"model": loaded}
        require_tensors(checkpoint["model"], filename)
        return checkpoint

    def _load_model(self, checkpoint: Any) -> Any:
        """Load, then refuse a file that left parts of the trunk (resuming or evaluating: of the model) as they were."""
        incompatible = super()._load_model(checkpoint)
        prefix = "" if self._whole_model else self._trunk()[0]
        unfit = [key for key, *_ in incompatible.incorrect_shapes if key.startswith(prefix)]
        unfit += [key for key in incompatible.missing_keys if key.startswith(prefix)]
        named = ", ".join(unfit[:3]) + (", ..." if len(unfit) > 3 else "")
        if unfit and self._whole_model:
            raise InputError(
                f"checkpoint {self._filename} lacks {len(unfit)} tensors of the model or has them in another shape "
                f"({named}): use the config and data that it was trained with"
            )
        if unfit:
            raise InputError(
                f"weight file {self._filename} lacks {len(unfit)} tensors of the trunk or has them in another shape "
                f"({named}): is MODEL.HIERA.SIZE the file's size?"
            )
        return incompatible

    def _from_official(self, loaded: dict[str, Any], filename: str) -> dict[str, Any]:
        """The model's state dict with the trunk's tensors replaced by the file's."""
        prefix, trunk = self._trunk()
        weights = select_trunk(loaded, trunk.state_dict(), filename)
        logger.info(
            "%s: %d tensors loaded into the trunk, %d without a place in a detector left out; "
            "neck and heads start fresh",
            filename,
            len(weights.tensors),
            len(weights.dropped),
        )
        unwrapped = self.model.module if isinstance(self.model, DistributedDataParallel) else self.model
        return unwrapped.state_dict() | {prefix + name: tensor for name, tensor in weights.tensors.items()}

    def _trunk(self) -> tuple[str, Hiera]:
        """The Hiera trunk inside the model and the prefix of its parameters' names."""
        unwrapped = self.model.module if isinstance(self.model, DistributedDataParallel) else self.model
        for name, module in unwrapped.named_modules():
            if isinstance(module, Hiera):
                return f"{name}." if name else "", module
        raise InputError("the model has no Hiera trunk: set MODEL.BACKBONE.NAME to one of build_hiera_*")
