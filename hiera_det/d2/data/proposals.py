"""detectron2's files of proposals, which are pickles, looked at before detectron2 unpickles them."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from hiera_det.errors import InputError

__all__ = ["check_proposals", "proposal_files"]

#: All that arrays of numbers are pickled by; nothing of it does more than hold them.
ARRAYS = {(f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")}
ARRAYS |= {(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")}
ARRAYS |= {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ARRAYS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it needs {module}.{name}")


def proposal_files(cfg: CfgNode, split: str, names: Sequence[str]) -> list[str] | None:
    """The files of data sets' proposals, each looked at; None where the detector makes its own.

    Args:
        cfg: with as many files as data sets, see `hiera_det.d2.config.checks.check_detector`.
        split: "TRAIN" or "TEST".
        names: of the data sets.

    Raises:
        InputError: see `check_proposals`.
    """
    if not cfg.MODEL.LOAD_PROPOSALS:
        return None
    key = f"DATASETS.PROPOSAL_FILES_{split}"
    files = dict(zip(cfg.DATASETS[split], cfg.DATASETS[f"PROPOSAL_FILES_{split}"], strict=True))
    for name in names:
        check_proposals(files[name], key)
    return [files[name] for name in names]


def check_proposals(file: str, key: str = "DATASETS.PROPOSAL_FILES_TRAIN") -> None:
    """Refuse a file of proposals that holds more than arrays and plain values.

    Raises:
        InputError: what it needs that could run code, or why it cannot be read.
    """
    try:
        with PathManager.open(file, "rb") as content:
            _Arrays(content, encoding="latin1").load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{key} {file}: is refused ({reason}); give arrays, as detectron2 has them") from None
