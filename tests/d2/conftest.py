"""Shared by the tests of the adapter: the command line of a tiny training on the built-in shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hiera_det.d2.config.request import RunRequest
from hiera_det.data.shapes import ShapesPaths

CONFIG = Path(__file__).parents[2] / "configs" / "quick_start.yaml"
#: A detector whose training step takes a fraction of a second.
SMALL = ["MODEL.HIERA.EMBED_DIM", "16", "MODEL.HIERA.DEPTHS", "[1, 1, 1, 1]", "MODEL.FPN.OUT_CHANNELS", "16"]
SMALL += ["MODEL.ROI_BOX_HEAD.CONV_DIM", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "16", "MODEL.ROI_MASK_HEAD.CONV_DIM", "16"]
SMALL += ["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "DATALOADER.NUM_WORKERS", "0"]
SMALL += ["SOLVER.IMS_PER_BATCH", "2", "TEST.EVAL_PERIOD", "0", "TEST.PICTURES", "0", "MODEL.DEVICE", "cpu"]
SMALL += ["TEST.REPORT", "False"]


@pytest.fixture(scope="session")
def training_arguments() -> Callable[..., RunRequest]:
    """``training_arguments(output folder, shapes data set, *KEY VALUE pairs, **flags)``."""

    def arguments(out: Path, data: ShapesPaths, *opts: str, **flags: Any) -> RunRequest:
        names: dict[str, Any] = {
            "config_file": str(CONFIG),
            "train_json": str(data.train_json),
            "train_images": str(data.train_images),
        }
        names |= {"val_json": str(data.val_json), "val_images": str(data.val_images)}
        return RunRequest(opts=(*SMALL, "OUTPUT_DIR", str(out), *opts), **(names | flags))

    return arguments
