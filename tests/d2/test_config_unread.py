"""Keys that are set and that nobody reads, and what may stand unread."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml
from detectron2.config import CfgNode

from hiera_det.d2.config.checks import check_best, check_detector, check_keypoints, check_semantic
from hiera_det.d2.config.load import load_config
from hiera_det.d2.config.request import RunRequest
from hiera_det.d2.config.setup import setup_config
from hiera_det.errors import InputError

CONFIGS = Path(__file__).parents[2] / "configs"
QUICK = str(CONFIGS / "quick_start.yaml")


def same_values(one: CfgNode, other: CfgNode) -> bool:
    """Equality of what is written down; tuples inside lists become lists."""
    return yaml.safe_load(one.dump()) == yaml.safe_load(other.dump())


def refusal(*opts: str, config: str = QUICK) -> str:
    with pytest.raises(InputError) as caught:
        check_detector(load_config(config, opts))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("opts", "says"),
    [
        (["MODEL.RESNETS.DEPTH", "101"], ["MODEL.RESNETS.DEPTH 101", "MODEL.BACKBONE.NAME", "MODEL.HIERA.SIZE"]),
        (["MODEL.RETINANET.NUM_CONVS", "2"], ["RetinaNet and FCOS would read it", "MODEL.META_ARCHITECTURE"]),
        (["MODEL.FPN.FUSE_TYPE", "avg"], ["MODEL.HIERA.OUT_FEATURES"]),
        (["MODEL.MASK_ON", "False", "MODEL.ROI_MASK_HEAD.CONV_DIM", "32"], ["only under MODEL.MASK_ON True"]),
        (["SOLVER.MOMENTUM", "0.8"], ["SGD would read it", "SOLVER.OPTIMIZER SGD", "ADAMW"]),
        (["SOLVER.OPTIMIZER", "SGD", "SOLVER.BETAS", "[0.8, 0.9]"], ["AdamW would read it"]),
        (["SOLVER.AMP.PRECISION", "bfloat16"], ["only under SOLVER.AMP.ENABLED True"]),
        (["TEST.AUG.FLIP", "False"], ["only under TEST.AUG.ENABLED True"]),
        (["INPUT.LSJ.SIZE", "64"], ["only under INPUT.LSJ.ENABLED True"]),
        (["INPUT.LSJ.ENABLED", "True", "INPUT.MIN_SIZE_TRAIN", "(320,)"], ["INPUT.MIN_SIZE_TRAIN"]),
        (["DATALOADER.REPEAT_THRESHOLD", "0.5"], ["RepeatFactorTrainingSampler"]),
        (["GLOBAL.HACK", "2.0"], ["GLOBAL.HACK 2.0: nothing here reads it"]),
        (["TEST.PRECISE_BN.ENABLED", "True"], ["no batch norms"]),
        (["MODEL.FPN.NORM", "BN"], ["MODEL.FPN.NORM 'BN': choose LN"]),
        (["MODEL.PIXEL_MEAN", "[1, 2]"], ["MODEL.PIXEL_MEAN has 2 channels and MODEL.PIXEL_STD 3"]),
        (["INPUT.FORMAT", "L"], ["INPUT.FORMAT L has 1 channels, and MODEL.PIXEL_MEAN 3"]),
        (["MODEL.ROI_HEADS.IN_FEATURES", "[p2]"], ["such as \"['..','..']\", each entry text"]),
        (["MODEL.DEVICE", "mps"], ["MODEL.DEVICE mps: choose cuda or cpu"]),
        (["MODEL.DEVICE", "nonsense"], ["MODEL.DEVICE nonsense: choose cuda or cpu"]),
        (
            ["MODEL.LOAD_PROPOSALS", "True", "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"],
            ["DATASETS.PROPOSAL_FILES_TRAIN must name one file"],
        ),
        (["MODEL.LOAD_PROPOSALS", "True"], ["LOAD_PROPOSALS True and MODEL.PROPOSAL_GENERATOR.NAME RPN"]),
        (["MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"], ["need True and PrecomputedProposals"]),
        (["MODEL.PROPOSAL_GENERATOR.NAME", "RRPN"], ["MODEL.PROPOSAL_GENERATOR.NAME RRPN: is for rotated boxes"]),
        (["MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator"], ["RotatedAnchorGenerator: is for rotated boxes"]),
        (["MODEL.ROI_HEADS.NAME", "RROIHeads"], ["MODEL.ROI_HEADS.NAME RROIHeads: is for rotated boxes"]),
        (["MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignRotated"], ["POOLER_TYPE ROIAlignRotated: is for rotated"]),
        (["MODEL.BACKBONE.NAME", "build_resnet_backbone"], ["MODEL.BACKBONE.NAME"]),
        (["SOLVER.CHECKPOINT_PERIOD", "0"], ["SOLVER.CHECKPOINT_PERIOD 0: give a whole number of at least 1"]),
        (["SOLVER.BASE_LR", "-1"], ["SOLVER.BASE_LR -1: give a number above 0"]),
        (["SOLVER.BASE_LR", "inf"], ["SOLVER.BASE_LR inf"]),
        (["SOLVER.WEIGHT_DECAY", "nan"], ["SOLVER.WEIGHT_DECAY nan"]),
        (["SOLVER.IMS_PER_BATCH", "None"], ["SOLVER.IMS_PER_BATCH None: give a whole number"]),
        (["SOLVER.WEIGHT_DECAY_BIAS", "1/0"], ["SOLVER.WEIGHT_DECAY_BIAS 1/0: give a number"]),
        (["MODEL.ROI_HEADS.NAME", "None"], ["MODEL.ROI_HEADS.NAME None: give text"]),
        (["MODEL.RPN.BBOX_REG_WEIGHTS", "(1,)"], ["MODEL.RPN.BBOX_REG_WEIGHTS"]),
        (["MODEL.ANCHOR_GENERATOR.SIZES", "[]"], ["MODEL.ANCHOR_GENERATOR.SIZES"]),
        (["SOLVER.MAX_ITER=3", "OUTPUT_DIR", "/out"], ["SOLVER.MAX_ITER=3: write KEY VALUE, with a blank"]),
        (["solver.max_iter", "3"], ["unknown config key solver.max_iter; did you mean SOLVER.MAX_ITER?"]),
        (["train.json", "--val-json"], ["train.json: stands where KEY VALUE pairs begin", "one file"]),
    ],
)
def test_what_would_be_silent_or_a_traceback_is_one_line(opts: list[str], says: list[str]) -> None:
    message = refusal(*opts)
    assert all(part in message for part in says), message


def test_what_a_later_layer_puts_out_of_use_is_no_mistake(tmp_path: Path) -> None:
    assert not load_config(QUICK, ["MODEL.MASK_ON", "False"]).MODEL.MASK_ON  # the file sets the mask head
    assert load_config(QUICK, ["INPUT.LSJ.ENABLED", "True"]).INPUT.LSJ.ENABLED  # and sizes of images
    (tmp_path / "mine.yaml").write_text(f"_BASE_: {QUICK}\nMODEL: {{MASK_ON: False, ROI_MASK_HEAD: {{NUM_CONV: 1}}}}")
    assert "mine.yaml: MODEL.ROI_MASK_HEAD.NUM_CONV 1" in refusal(config=str(tmp_path / "mine.yaml"))


def test_a_config_that_was_written_down_whole_is_taken_and_what_is_set_over_it_is_looked_at(tmp_path: Path) -> None:
    cfg = load_config(QUICK, ["MODEL.MASK_ON", "False"])
    cfg.MODEL.RETINANET.NUM_CLASSES = 5  # as own data set it, whatever the head
    (tmp_path / "config.yaml").write_text(cfg.dump())
    saved = str(tmp_path / "config.yaml")
    assert same_values(load_config(saved), cfg)
    assert "only under MODEL.MASK_ON True" in refusal("MODEL.ROI_MASK_HEAD.CONV_DIM", "8", config=saved)


def test_components_of_ones_own_may_read_anything() -> None:
    for key, name in (("MODEL.META_ARCHITECTURE", "MyRCNN"), ("MODEL.ROI_HEADS.NAME", "MyHeads")):
        cfg = load_config(QUICK, [key, name, "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", "True"])
        assert cfg.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_of_ours_passes_whole_and_in_parts(path: Path, tmp_path: Path) -> None:
    cfg = load_config(str(path))
    check_detector(cfg)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    assert same_values(load_config(str(tmp_path / "config.yaml")), cfg)


@pytest.mark.parametrize(("order", "warned"), [("RGB", False), ("BGR", True), ("HSV", True)])
def test_a_mean_of_another_order_of_colours_is_told(order: str, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    check_detector(load_config(QUICK, ["INPUT.FORMAT", order]))
    assert (f"INPUT.FORMAT {order}, and MODEL.PIXEL_MEAN [123.675, 116.28, 103.53] is of RGB" in caplog.text) == warned


@pytest.mark.parametrize(
    ("opts", "says"),
    [
        (["TEST.BEST", "bbox/AP"], ""),
        (["TEST.BEST", "segm/APs"], ""),
        (["TEST.BEST", "bbox/AP-a class"], ""),
        (["TEST.BEST", "ema/bbox/AP75", "SOLVER.EMA_DECAY", "0.9"], ""),
        (["TEST.BEST", "b/bbox/AP", "DATASETS.TEST", "('a', 'b')"], ""),
        (["TEST.BEST", "bbox/APx"], "TEST.BEST bbox/APx: choose bbox/AP or segm/AP, with 50"),
        (["TEST.BEST", "ema/bbox/AP"], "with ema/ before it where SOLVER.EMA_DECAY is above 0"),
        (["MODEL.MASK_ON", "False", "TEST.BEST", "segm/AP"], "TEST.BEST segm/AP: choose bbox/AP, with"),
        (["TEST.BEST", "bbox/AP", "DATASETS.TEST", "('a', 'b')"], "choose a/bbox/AP or a/segm/AP or b/bbox/AP or"),
        (["TEST.BEST", "bbox/AP", "DATASETS.TEST", "()"], "TEST.BEST bbox/AP: nothing is evaluated: give --val-json"),
    ],
)
def test_a_metric_that_no_evaluation_has_is_refused_before_the_training(opts: list[str], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)) if says else nullcontext():
        check_best(load_config(QUICK, opts))


def test_a_run_without_a_config_file_is_told_which_there_are() -> None:
    with pytest.raises(InputError, match=r"--config-file is missing: .*mask_rcnn_hiera_b.*quick_start"):
        setup_config(RunRequest())


@pytest.mark.parametrize("kind", ["PanopticFPN", "SemanticSegmentor"])
def test_semantic_maps_need_data_that_have_them(kind: str) -> None:
    cfg = load_config(QUICK, ["MODEL.META_ARCHITECTURE", kind])
    cfg.DATASETS.TRAIN = ("coco_2017_train",)
    with pytest.raises(InputError, match=f"{kind}: learns from semantic maps, and data set 'coco_2017_train' has none"):
        check_semantic(cfg)
    cfg.DATASETS.TRAIN = ("coco_2017_train_panoptic_separated",)
    check_semantic(cfg)


def test_keypoints_need_data_that_describe_them() -> None:
    from detectron2.data import MetadataCatalog

    cfg = load_config(QUICK, ["MODEL.KEYPOINT_ON", "True", "DATASETS.TRAIN", "('joints',)", "DATASETS.TEST", "()"])
    with pytest.raises(InputError, match=r"MODEL\.KEYPOINT_ON True: data set 'joints' has no keypoint_names"):
        check_keypoints(cfg)
    MetadataCatalog.get("joints").set(keypoint_names=["a", "b"], keypoint_flip_map=[])
    with pytest.raises(InputError, match=r"NUM_KEYPOINTS 17: data set 'joints' has 2"):
        check_keypoints(cfg)
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 2
    check_keypoints(cfg)
    cfg.DATASETS.TEST = ("joints",)
    with pytest.raises(InputError, match=r"TEST\.KEYPOINT_OKS_SIGMAS: give the 2 sigmas"):
        check_keypoints(cfg)
    cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.1, 0.1]
    check_keypoints(cfg)
    MetadataCatalog.remove("joints")
