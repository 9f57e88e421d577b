"""Shared by all tests: few threads and no network, so that a run is the same everywhere."""

from __future__ import annotations

import logging
import signal
from pathlib import Path

import pytest
import torch

CONFIG = Path(__file__).parents[1] / "configs" / "mask_rcnn_hiera_t_1x.yaml"
#: A detector whose forward takes milliseconds.
TINY = ["MODEL.DEVICE", "cpu", "MODEL.HIERA.EMBED_DIM", "16", "MODEL.HIERA.DEPTHS", "[1, 1, 1, 1]"]
TINY += ["MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.CONV_DIM", "16", "MODEL.ROI_MASK_HEAD.CONV_DIM", "16"]
TINY += ["MODEL.RPN.POST_NMS_TOPK_TEST", "20", "INPUT.MIN_SIZE_TEST", "64", "MODEL.ROI_HEADS.NUM_CLASSES", "2"]
TINY += ["SOLVER.MAX_ITER", "10", "SOLVER.STEPS", "()"]  # in iterations, as in the config that a training leaves
TINY += ["MODEL.ROI_BOX_HEAD.FC_DIM", "16", "DATASETS.TRAIN", "('not here',)", "DATASETS.TEST", "()"]


if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests started by nohup would have it ignored


@pytest.fixture(autouse=True)
def _fresh_loggers() -> None:
    """Undo what a tool that ran in this process did to the loggers, so that tests see every message."""
    for name in ("hiera_det", "detectron2", "fvcore"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Start each test from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training of a tiny Mask R-CNN leaves: random weights, the classes fig (id 7) and date (id 42)."""
    from detectron2.modeling import build_model

    from hiera_det.d2.config.load import load_config
    from hiera_det.d2.train.checkpoint import HieraCheckpointer

    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("run")
    cfg = load_config(str(CONFIG), [*TINY, "OUTPUT_DIR", str(out)])
    checkpointer = HieraCheckpointer(build_model(cfg), str(out))
    checkpointer.categories = [{"id": 7, "name": "fig"}, {"id": 42, "name": "date"}]
    checkpointer.save("model_final")
    (out / "config.yaml").write_text(cfg.dump())
    return out
