"""Every config in the folder: it loads, its detector trains and predicts, and the recipes are those they name."""

from __future__ import annotations

import json
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import Conv2d
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
from detectron2.utils.events import EventStorage
from PIL import Image

from hiera_det.d2.config.load import load_config
from hiera_det.d2.config.schedule import resolve_schedule
from hiera_det.d2.data.augmentation import check_lsj
from hiera_det.d2.data.datasets import own_data_config
from hiera_det.d2.model.flops import count_detector
from hiera_det.d2.predict.predictor import Predictor
from hiera_det.d2.train.checkpoint import HieraCheckpointer
from hiera_det.modeling.pyramid import LayerNorm2d
from hiera_det.modeling.variants import get_variant

CONFIGS = Path(__file__).parents[2] / "configs"
LEAVES = sorted(CONFIGS.glob("*.yaml"))
SIZES = {"t": "tiny", "s": "small", "b": "base", "bplus": "base_plus", "l": "large", "h": "huge"}
#: The same detector in milliseconds.
SMALL = ["MODEL.DEVICE", "cpu", "MODEL.HIERA.EMBED_DIM", "16", "MODEL.HIERA.DEPTHS", "[1, 1, 2, 1]"]
SMALL += ["MODEL.FPN.OUT_CHANNELS", "16", "TEST.DETECTIONS_PER_IMAGE", "5"]
#: And its heads, by what switches them on.
SMALL_REGIONS = ["MODEL.ROI_BOX_HEAD.CONV_DIM", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "16"]
SMALL_REGIONS += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
SMALL_REGIONS += ["MODEL.RPN.POST_NMS_TOPK_TRAIN", "50", "MODEL.RPN.POST_NMS_TOPK_TEST", "20"]
SMALL_HEADS = {
    "MASK_ON": ["MODEL.ROI_MASK_HEAD.CONV_DIM", "16"],
    "KEYPOINT_ON": ["MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", "[16]"],
}


def config(name: str, *opts: str) -> CfgNode:
    return load_config(str(CONFIGS / f"{name}.yaml"), opts)


def values(cfg: CfgNode, *keys: str) -> list[Any]:
    return [reduce(CfgNode.__getitem__, key.split("."), cfg) for key in keys]


def small(path: Path) -> CfgNode:
    """The config with little to compute; images are padded to few pixels, where they are padded to squares."""
    model = load_config(str(path)).MODEL
    opts = [*SMALL, *(opt for switch, heads in SMALL_HEADS.items() if model[switch] for opt in heads)]
    if model.META_ARCHITECTURE in ("GeneralizedRCNN", "PanopticFPN"):
        opts += SMALL_REGIONS
    cfg = load_config(str(path), opts)
    cfg.MODEL.HIERA.SQUARE_PAD = 96 if cfg.MODEL.HIERA.SQUARE_PAD else 0
    return cfg


def labelled() -> dict[str, Any]:
    """One training sample with one object."""
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.tensor([[4.0, 4.0, 40.0, 44.0]]))
    instances.gt_classes = torch.tensor([1])
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, 4:44, 4:40] = True
    instances.gt_masks = BitMasks(mask)
    instances.gt_keypoints = Keypoints(torch.rand(1, 17, 3) * torch.tensor([36.0, 40, 0]) + torch.tensor([4.0, 4, 2]))
    sample = {"image": torch.randint(0, 255, (3, 64, 64)).float(), "instances": instances, "height": 64, "width": 64}
    return sample | {"sem_seg": torch.randint(0, 54, (64, 64))}


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)
def test_every_config_trains_a_step_and_infers(path: Path) -> None:
    cfg = small(path)
    model = build_model(cfg)
    with EventStorage():
        loss = sum(model([labelled()]).values())
    loss.backward()
    assert torch.isfinite(loss)
    learning = [p for p in model.backbone.trunk.parameters() if p.requires_grad]
    assert any(p.grad.abs().max() > 0 for p in learning)
    # DDP waits for all that learn
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    with torch.inference_mode():
        (result,) = model.eval()([labelled()])
    if cfg.MODEL.META_ARCHITECTURE in ("PanopticFPN", "SemanticSegmentor"):
        assert result["sem_seg"].shape == (54, 64, 64)
    if cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor":
        return
    assert result["instances"].image_size == (64, 64)
    if cfg.MODEL.KEYPOINT_ON:
        assert result["instances"].pred_keypoints.shape == (5, 17, 3)
    if cfg.MODEL.MASK_ON:
        assert result["instances"].pred_masks.shape == (5, 64, 64)


@pytest.mark.parametrize("name", ["fcos_hiera_b_1x", "retinanet_hiera_b_1x"])
def test_a_dense_detector_learns_from_an_image_without_objects(name: str) -> None:
    model, sample = build_model(small(CONFIGS / f"{name}.yaml")), labelled()
    with EventStorage():
        losses = model([{**sample, "instances": sample["instances"][:0]}])
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert sum(losses.values()) > 0


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)
def test_every_config_builds_at_its_own_size(path: Path) -> None:
    cfg = load_config(str(path), ["MODEL.DEVICE", "meta"])
    check_lsj(cfg)
    with torch.device("meta"):
        trunk = build_model(cfg).backbone.trunk
    assert len(trunk.blocks) == sum(cfg.MODEL.HIERA.DEPTHS or get_variant(cfg.MODEL.HIERA.SIZE).depths)
    assert cfg.VERSION == 2
    if cfg.MODEL.HIERA.SQUARE_PAD:
        sides = [cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.LSJ.SIZE if cfg.INPUT.LSJ.ENABLED else cfg.INPUT.MAX_SIZE_TRAIN]
        assert max(sides) <= cfg.MODEL.HIERA.SQUARE_PAD


@pytest.mark.parametrize("path", sorted((CONFIGS / "_base_").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_base_loads_by_itself(path: Path) -> None:
    load_config(str(path))


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_its_trainings(size: str) -> None:
    for name in (f"mask_rcnn_hiera_{size}", f"mask_rcnn_hiera_{size}_36ep", f"mask_rcnn_hiera_{size}_1x"):
        cfg = config(name)
        weights = Path(cfg.MODEL.WEIGHTS).name
        assert (cfg.MODEL.HIERA.SIZE, weights) == (SIZES[size], f"mae_hiera_{SIZES[size]}_224.pth")


@pytest.mark.parametrize(
    ("size", "learning_rate", "drop_path"), [("b", 3.5e-5, 0.2), ("bplus", 3.5e-5, 0.2), ("l", 3e-5, 0.4)]
)
def test_the_recipe_is_the_papers(size: str, learning_rate: float, drop_path: float) -> None:
    """Hiera paper, Table 15 and appendix A.2."""
    cfg = config(f"mask_rcnn_hiera_{size}")
    assert (cfg.SOLVER.OPTIMIZER, list(cfg.SOLVER.BETAS), cfg.SOLVER.WEIGHT_DECAY) == ("ADAMW", [0.9, 0.999], 0.1)
    assert values(cfg, "SOLVER.BASE_LR", "SOLVER.LAYER_DECAY") == [learning_rate, 1.0]
    assert values(cfg, "MODEL.HIERA.SIZE", "MODEL.HIERA.DROP_PATH_RATE") == [SIZES[size], drop_path]
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.EPOCHS) == (64, 100)
    assert cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupMultiStepLR"
    assert cfg.INPUT.LSJ.ENABLED
    assert (cfg.INPUT.LSJ.SIZE, list(cfg.INPUT.LSJ.SCALE)) == (1024, [0.1, 2.0])
    assert cfg.MODEL.BACKBONE.NAME == "build_hiera_fpn_backbone"
    heads = {"RPN": 2, "ROI_BOX_HEAD": 4, "ROI_MASK_HEAD": 4}
    with torch.device("meta"):
        model = build_model(config(f"mask_rcnn_hiera_{size}", "MODEL.DEVICE", "meta"))
    built = (model.proposal_generator.rpn_head.conv, model.roi_heads.box_head, model.roi_heads.mask_head)
    for (name, hidden), head in zip(heads.items(), built, strict=True):
        assert cfg.MODEL[name].NORM == "LN"
        assert sum(isinstance(getattr(layer, "norm", None), LayerNorm2d) for layer in head.modules()) == hidden
        assert any(isinstance(layer, Conv2d) for layer in head.modules())


def test_what_the_paper_leaves_open_is_vitdets() -> None:
    cfg = config("mask_rcnn_hiera_b")
    assert list(cfg.SOLVER.MILESTONES) == pytest.approx([163889 / 184375, 177546 / 184375], abs=1e-5)
    assert (cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WARMUP_FACTOR) == (250, 0.001)
    assert cfg.SOLVER.WEIGHT_DECAY_NORM == cfg.SOLVER.WEIGHT_DECAY_POS_EMBED == 0
    assert cfg.SOLVER.AMP.ENABLED
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.MODEL.HIERA.SQUARE_PAD) == (1024, 1024, 1024)
    assert cfg.INPUT.FORMAT == "RGB"


def changes(one: CfgNode, other: CfgNode, prefix: str = "") -> dict[str, Any]:
    """Keys whose values differ, with those of the second config."""
    found: dict[str, Any] = {}
    for key, value in one.items():
        if isinstance(value, CfgNode):
            found |= changes(value, other[key], f"{prefix}{key}.")
        elif value != other[key]:
            found[prefix + key] = other[key]
    return found


@pytest.mark.parametrize("size", SIZES)
def test_shorter_trainings_differ_in_schedule_and_input_only(size: str) -> None:
    paper = config(f"mask_rcnn_hiera_{size}")
    assert changes(paper, config(f"mask_rcnn_hiera_{size}_36ep")) == {"SOLVER.EPOCHS": 36}
    assert changes(paper, config(f"mask_rcnn_hiera_{size}_1x")) == {
        "SOLVER.EPOCHS": 12,
        "SOLVER.AMP.ENABLED": False,
        "INPUT.LSJ.ENABLED": False,
        "INPUT.MIN_SIZE_TEST": 800,
        "INPUT.MAX_SIZE_TEST": 1333,
        "MODEL.HIERA.SQUARE_PAD": 0,
    }


@pytest.mark.parametrize("size", ["b", "bplus", "l", "h"])
def test_cascade_differs_in_the_box_heads_only(size: str) -> None:
    plain, cascade = config(f"mask_rcnn_hiera_{size}"), config(f"cascade_mask_rcnn_hiera_{size}")
    assert changes(plain, cascade) == {
        "MODEL.ROI_HEADS.NAME": "CascadeROIHeads",
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
    }
    assert tuple(cascade.MODEL.ROI_BOX_CASCADE_HEAD.IOUS) == (0.5, 0.6, 0.7)


@pytest.mark.parametrize(("size", "decay"), [("t", 0.8), ("s", 0.8), ("bplus", 0.9), ("l", 0.925)])
def test_sam2s_trunks_train_with_sam2s_layer_decay(size: str, decay: float) -> None:
    """SAM 2 paper, Table 13a."""
    cfg = config(f"mask_rcnn_hieradet_{size}")
    assert values(cfg, "SOLVER.LAYER_DECAY", "INPUT.LSJ.ENABLED", "SOLVER.EPOCHS") == [decay, True, 100]


def test_the_quick_start_keeps_its_own_schedule_and_input() -> None:
    cfg = config("quick_start")
    assert (cfg.SOLVER.EPOCHS, cfg.SOLVER.MAX_ITER) == (0, 4000)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR, cfg.TEST.EVAL_PERIOD) == (2, 3.5e-4, 800)
    assert (cfg.INPUT.LSJ.ENABLED, cfg.SOLVER.AMP.ENABLED, cfg.MODEL.HIERA.SQUARE_PAD) == (False, False, 0)
    resolve_schedule(cfg)
    assert tuple(cfg.SOLVER.STEPS) == (3400, 3850)


def test_a_cascades_multiply_adds_are_those_of_three_box_heads() -> None:
    plain, cascade = (count_detector(config(f"{name}_hiera_b"), 64, 64) for name in ("mask_rcnn", "cascade_mask_rcnn"))
    assert cascade["box head"] == pytest.approx(3 * plain["box head"], rel=0.01)  # with fewer boxes to regress
    assert {part for part in plain if plain[part] != cascade[part]} == {"box head", "total"}


@pytest.fixture
def three_classes(tmp_path: Path) -> tuple[str, str]:
    """A COCO JSON of three classes, and its images' folder."""
    Image.new("RGB", (32, 24)).save(tmp_path / "a.png")
    box = {"bbox": [2, 2, 12, 9], "area": 108, "iscrowd": 0, "segmentation": [[2, 2, 14, 2, 14, 11, 2, 11]]}
    data = {
        "images": [{"id": 1, "file_name": "a.png", "width": 32, "height": 24}],
        "annotations": [{"id": index, "image_id": 1, "category_id": index, **box} for index in (1, 2, 3)],
        "categories": [{"id": index, "name": name} for index, name in enumerate(("fig", "date", "nut"), start=1)],
    }
    (tmp_path / "train.json").write_text(json.dumps(data))
    return str(tmp_path / "train.json"), str(tmp_path)


def test_own_classes_reach_every_head_of_a_cascade(three_classes: tuple[str, str]) -> None:
    cfg = small(CONFIGS / "cascade_mask_rcnn_hiera_b.yaml")
    own_data_config(cfg, *three_classes)
    heads = build_model(cfg).roi_heads
    assert [stage.cls_score.out_features for stage in heads.box_predictor] == [4, 4, 4]  # and the background
    assert [stage.bbox_pred.out_features for stage in heads.box_predictor] == [4, 4, 4]
    assert heads.mask_head.predictor.out_channels == 3
    norms = [sum(isinstance(layer, LayerNorm2d) for layer in head.modules()) for head in heads.box_head]
    assert norms == [4, 4, 4]
    assert [matcher.thresholds[1] for matcher in heads.proposal_matchers] == [0.5, 0.6, 0.7]


def test_a_trained_cascade_predicts_and_draws(tmp_path: Path, three_classes: tuple[str, str]) -> None:
    cfg = small(CONFIGS / "cascade_mask_rcnn_hiera_b.yaml")
    cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = 96
    own_data_config(cfg, *three_classes)
    resolve_schedule(cfg)  # as in the config that a training leaves
    checkpointer = HieraCheckpointer(build_model(cfg), str(tmp_path))
    checkpointer.categories = [{"id": index + 1, "name": name} for index, name in enumerate(("fig", "date", "nut"))]
    checkpointer.save("model_final")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    predictor = Predictor.from_folder(str(tmp_path), threshold=0.0)
    (prediction,) = predictor.predict_files([str(tmp_path / "a.png")])
    assert prediction.instances.pred_masks.shape == (5, 24, 32)
    assert np.asarray(predictor.draw(prediction)).any()
