"""A walk over all keys: each is in the table of readers, and the table says what is true."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from recording import Recording

from hiera_det.d2.config.kinds import same
from hiera_det.d2.config.layers import get_value, set_value
from hiera_det.d2.config.load import default_config, load_config
from hiera_det.d2.config.request import RunRequest
from hiera_det.d2.config.setup import settle_run
from hiera_det.d2.config.unread import READERS, failing, markdown
from hiera_det.d2.train.trainer import Trainer
from hiera_det.data.shapes import ShapesPaths, write_shapes_dataset
from hiera_det.errors import InputError

ROOT = Path(__file__).parents[2]
QUICK = str(ROOT / "configs" / "quick_start.yaml")
SMALL = ["MODEL.HIERA.EMBED_DIM", "16", "MODEL.HIERA.DEPTHS", "[1, 1, 1, 1]", "MODEL.FPN.OUT_CHANNELS", "16"]
SMALL += ["INPUT.MIN_SIZE_TEST", "64", "DATALOADER.NUM_WORKERS", "0", "SOLVER.MAX_ITER", "1", "MODEL.DEVICE", "cpu"]
SMALL += ["SOLVER.IMS_PER_BATCH", "2", "TEST.EVAL_PERIOD", "0", "TEST.PICTURES", "1", "MODEL.WEIGHTS", ""]
SIZES = ["INPUT.MIN_SIZE_TRAIN", "(64,)"]
LEVELS = "['p3', 'p4', 'p5', 'p6']"

RETINANET = ["MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RETINANET.IN_FEATURES", LEVELS, "MODEL.MASK_ON", "False"]
RETINANET += ["MODEL.ANCHOR_GENERATOR.SIZES", "[[16], [32], [64], [128]]"]
OTHERWISE = ["SOLVER.OPTIMIZER", "SGD", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm", "SOLVER.EMA_DECAY", "0.9"]
OTHERWISE += ["INPUT.LSJ.ENABLED", "True", "INPUT.LSJ.SIZE", "64", "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"]
OTHERWISE += ["MODEL.ROI_BOX_HEAD.NORM", "BN", "TEST.PRECISE_BN.ENABLED", "True", "TEST.PRECISE_BN.NUM_ITER", "1"]
OTHERWISE += ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(64,)", "MODEL.HIERA.POS_EMBED", "absolute_win"]
OTHERWISE += ["MODEL.BACKBONE.NAME", "build_hiera_simple_fpn_backbone", "MODEL.HIERA.WINDOW_SIZE", "[8, 4, 14, 7]"]
OTHERWISE += ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.PRECISION", "bfloat16"]
OTHERWISE += ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"]
CASCADE = ["MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"]
CASCADE += ["INPUT.CROP.ENABLED", "True"]
BARE = ["MODEL.BACKBONE.NAME", "build_hiera_backbone", "MODEL.META_ARCHITECTURE", "SemanticSegmentor"]
BARE += ["MODEL.SEM_SEG_HEAD.IN_FEATURES", "['stage1', 'stage2']"]
RESNET = ["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3']"]
RESNET += ["MODEL.FPN.IN_FEATURES", "['res2', 'res3']", "MODEL.FPN.NORM", "BN", "MODEL.RPN.IN_FEATURES", "['p2', 'p3']"]
RESNET += ["MODEL.ROI_HEADS.IN_FEATURES", "['p2', 'p3']", "MODEL.ANCHOR_GENERATOR.SIZES", "[[16], [32]]"]
#: Trainings that between them have the keys of the tables read.
TRAININGS = {
    "masks": SIZES,
    "cascade and crop": [*SIZES, *CASCADE],
    "RetinaNet": [*SIZES, *RETINANET],
    "otherwise": OTHERWISE,
}
#: Detectors that are built, but have no data here.
BUILT = {
    "keypoints": ["MODEL.KEYPOINT_ON", "True"],
    "panoptic": ["MODEL.META_ARCHITECTURE", "PanopticFPN"],
    "semantic": ["MODEL.META_ARCHITECTURE", "SemanticSegmentor"],
    "proposals alone": ["MODEL.META_ARCHITECTURE", "ProposalNetwork"],
    "bare trunk": BARE,
    "ResNet": RESNET,
    "FCOS": [*RETINANET[:6], "MODEL.META_ARCHITECTURE", "HieraFCOS"],
}
#: Read where configs are loaded and a run is started.
BEFORE = {"VERSION", "SOLVER.SCALING", "SEED", "CUDNN_BENCHMARK", "FLOAT32_PRECISION"}
#: Read where it does nothing: handed on to what is not used.
IDLE = {
    *("MODEL.HIERA.POS_GRID", "MODEL.HIERA.POS_ANTIALIAS", "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES"),
    *("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", "INPUT.MASK_FORMAT", "MODEL.KEYPOINT_ON", "TEST.AUG.ENABLED"),
    *("INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TRAIN_SAMPLING", "INPUT.MAX_SIZE_TRAIN"),
    *("SOLVER.STEPS", "SOLVER.MILESTONES", "TEST.KEYPOINT_OKS_SIGMAS", "MODEL.HIERA.NUM_GLOBAL_BLOCKS"),
    *("MODEL.RESNETS.NORM", "MODEL.RESNETS.STRIDE_IN_1X1", "SOLVER.AMP.PRECISION"),
}
#: Nothing is built with these here: cheap to say, dear to try.
UNTRIED = {"MODEL.PANOPTIC_FPN.COMBINE.ENABLED", "MODEL.RPN.NORM"}


def keys_of(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield from keys_of(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else [prefix + key]


ALL = sorted(keys_of(default_config()))


def active(cfg: CfgNode) -> set[str]:
    """Keys that somebody reads, as the tables say."""
    return {key for key in ALL if READERS[key][0].who and failing(cfg, key) is None}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ShapesPaths:
    return write_shapes_dataset(tmp_path_factory.mktemp("data"), train=4, val=2, size=64)


def test_every_key_is_in_the_table_and_its_default_is_of_its_kind() -> None:
    assert [key for key in ALL if key not in READERS] == []
    cfg = default_config()
    assert [key for key in ALL if not READERS[key][1].accepts(get_value(cfg, key))] == []


def test_no_key_is_in_the_table_twice() -> None:
    from hiera_det.d2.config.unread import TABLE

    listed = [reader.prefix + name for reader in TABLE for names in reader.keys.values() for name in names.split()]
    assert sorted(listed) == sorted(READERS)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_reads_the_keys_that_the_table_says(name: str, data: ShapesPaths, tmp_path: Path) -> None:
    paths = [data.train_json, data.train_images, data.val_json, data.val_images]
    request = RunRequest(QUICK, (*SMALL, *TRAININGS[name], "OUTPUT_DIR", str(tmp_path / "out")), *map(str, paths))
    reads: set[str] = set()
    cfg = Recording.of(load_config(request.config_file, request.opts), reads)
    settle_run(cfg, request, request.opts[0::2], check_files=True)
    cfg.freeze()
    trainer = Trainer(cfg)
    trainer.resume_or_load(False)
    trainer.train()
    found = set(reads)  # before this test itself reads
    assert sorted(active(cfg) - found - BEFORE) == []
    assert sorted(found - active(cfg) - IDLE) == []


@pytest.mark.parametrize("name", BUILT)
def test_a_detector_reads_the_keys_that_the_table_says(name: str) -> None:
    reads: set[str] = set()
    cfg = Recording.of(load_config(QUICK, ["MODEL.DEVICE", "meta", *BUILT[name]]), reads)
    with torch.device("meta"):
        build_model(cfg)
    found = set(reads)
    model_keys = {key for key in active(cfg) if key.startswith("MODEL.")}
    elsewhere = {"MODEL.WEIGHTS", "MODEL.LOAD_PROPOSALS", "MODEL.KEYPOINT_ON", "MODEL.MASK_ON"}
    elsewhere |= {"MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE"}  # by the data loader
    assert sorted(model_keys - found - elsewhere - UNTRIED) == []
    assert sorted({key for key in found if key in READERS} - active(cfg) - IDLE) == []


WORDS = "SGD norm vertical bitmask BGR avg giou ROIAlign range absolute float16 bfloat16 tile zero fsdp sqrt cpu stage2"
WORDS += " WarmupCosineLR RepeatFactorTrainingSampler small skip constant faster-coco-eval conv"


def others(value: Any) -> Iterator[Any]:
    """Values that may stand in a value's place."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (1, 2, value + 1, value + 32, value / 2, value + 0.01, 0.5)
    elif isinstance(value, str):
        yield from (*WORDS.split(), f"{value}x", "other")
    elif isinstance(value, list | tuple):
        for entry in value[:1]:
            yield from ([other, *value[1:]] for other in others(entry))
        yield from ([*value, 1], [*value, 0.5], [*value, "stage1"], [1] * 4, [1, 1], ["x"], [0.5], [["a", "b", 1, 1]])
        yield ["csv"]
    else:
        yield 0.5


@pytest.mark.parametrize("key", ALL)
def test_a_key_that_is_set_is_read_or_refused(key: str) -> None:
    kind, usual = READERS[key][1], [get_value(cfg, key) for cfg in (default_config(), load_config(QUICK))]
    fitting = [
        other for other in others(usual[0]) if kind.accepts(other) and not any(same(other, one) for one in usual)
    ]
    if not fitting:  # the config has the only other value already
        assert key == "VERSION" or not same(*usual)
        return
    with contextlib.ExitStack() as stack:
        cfg = load_config(QUICK)
        set_value(cfg, key, type(usual[0])(fitting[0]) if isinstance(usual[0], tuple) else fitting[0])
        if key not in active(cfg):
            stack.enter_context(pytest.raises(InputError, match=re.escape(key)))
        load_config(QUICK, [key, str(fitting[0])])


def test_the_page_of_keys_is_the_tables() -> None:
    """``python -c 'from hiera_det.d2.config.unread import markdown; print(markdown())'`` writes it anew."""
    assert markdown() in (ROOT / "docs" / "config_keys.md").read_text(encoding="utf-8")
