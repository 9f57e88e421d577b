"""The LazyConfigs: each builds, and is the detector, the data pipeline and the recipe of its YAML twin."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, LazyConfig, instantiate
from detectron2.data import DatasetMapper
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, Keypoints
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, ListConfig
from PIL import Image
from torch import nn

from hiera_det.d2.config.load import load_config
from hiera_det.d2.config.schedule import resolve_schedule
from hiera_det.d2.config.training import norm_of_all
from hiera_det.d2.data.mapper import build_train_mapper
from hiera_det.d2.lazy import build_fpn_backbone, warmup_length
from hiera_det.d2.lazy.translate import to_keys
from hiera_det.d2.model.heads import HieraBoxHead, HieraMaskHead
from hiera_det.d2.train.trainer import Trainer
from hiera_det.errors import InputError
from hiera_det.zoo import build_hiera

CONFIGS = Path(__file__).parents[2] / "configs"
LEAVES = sorted((CONFIGS / "lazy").glob("*.py"))
TWINS = [(leaf, CONFIGS / f"{leaf.stem.removesuffix('_100ep')}.yaml") for leaf in LEAVES]
TWIN_IDS = [leaf.stem for leaf in LEAVES]
OTHERS = [twins for twins in TWINS if "mask_rcnn" not in twins[0].stem]
#: With and without masks, of either kind of input; keypoints and semantic maps change nothing else about samples.
SOME = [twins for twins in TWINS if twins[0].stem in ("cascade_mask_rcnn_hiera_b_100ep", "faster_rcnn_hiera_b_1x")]
#: Small enough to compute with; stage 3 has a windowed block and two global ones.
SMALL_LAZY = [
    "+model.backbone.trunk.embed_dim=16",
    "+model.backbone.trunk.depths=[1,1,3,1]",
    "model.backbone.trunk.global_blocks=[3,4]",
    "model.backbone.out_channels=16",
    "model.backbone.square_pad=128",
]
SMALL_YAML = {
    "MODEL.DEVICE": "cpu",
    "MODEL.HIERA.EMBED_DIM": 16,
    "MODEL.HIERA.DEPTHS": [1, 1, 3, 1],
    "MODEL.HIERA.SQUARE_PAD": 128,
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.ROI_HEADS.NUM_CLASSES": 3,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 16,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": [16],
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 16,
}


def load(leaf: Path, *overrides: str) -> DictConfig:
    return LazyConfig.apply_overrides(LazyConfig.load(str(leaf)), list(overrides))


def small_lazy(leaf: Path) -> DictConfig:
    cfg = load(leaf, *SMALL_LAZY)
    model = cfg.model
    if "sem_seg_head" in model:
        model.sem_seg_head.conv_dims = 16
    if "num_classes" in model:
        model.update(num_classes=3, test_score_thresh=0.0)
        model.backbone.out_channels = 32
    if "roi_heads" not in model:
        return cfg
    heads = model.roi_heads
    heads.num_classes = 3
    for part, dims in {"mask_head": [16] * 5, "keypoint_head": [16]}.items():
        if part in heads:
            heads[part].conv_dims = dims
    for box_head in heads.box_heads if "box_heads" in heads else [heads.box_head]:
        box_head.update(conv_dims=[16, 16, 16, 16], fc_dims=[32])
    return cfg


def small_keys(twin: Path) -> dict[str, Any]:
    """`SMALL_YAML`, as far as the detector reads it."""
    unread = {"retinanet": "ROI SEM", "fcos": "ROI SEM", "semantic": "ROI", "panoptic": "KEYPOINT"}
    unread |= {"faster": "MASK KEYPOINT SEM", "keypoint": "MASK SEM"}
    without = unread.get(twin.stem.split("_")[0], "KEYPOINT SEM").split()
    kept = {key: value for key, value in SMALL_YAML.items() if not any(part in key for part in without)}
    if twin.stem.startswith(("retinanet", "fcos")):
        kept |= {"MODEL.RETINANET.NUM_CLASSES": 3, "MODEL.RETINANET.SCORE_THRESH_TEST": 0.0}
        kept["MODEL.FPN.OUT_CHANNELS"] = 32  # of 32 groups
    return kept


def load_yaml(path: Path, keys: dict[str, Any]) -> CfgNode:
    return load_config(str(path), [str(word) for pair in keys.items() for word in pair])


def plain(value: Any) -> Any:
    """A setting in a form that does not depend on who built it."""
    if isinstance(value, ListConfig | list | tuple) and not hasattr(value, "_fields"):
        return tuple(plain(entry) for entry in value)
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "_fields"):
        return type(value).__name__, plain(value._asdict())
    if type(value).__module__.startswith(("detectron2.", "hiera_det.")) and not callable(value):
        return type(value).__name__, plain(vars(value))
    return getattr(value, "__qualname__", type(value).__name__)


def settings(model: nn.Module) -> dict[str, Any]:
    """Every module's kind and its attributes, by the module's name."""
    found = {}
    for name, module in model.named_modules():
        attributes = {key: plain(value) for key, value in vars(module).items() if key[0] != "_"}
        if isinstance(attributes.get("loss_weight"), dict):  # detectron2 takes a loss that is not named as 1.0
            attributes["loss_weight"] = {key: value for key, value in attributes["loss_weight"].items() if value != 1.0}
        found[name] = (type(module).__name__, attributes)
    return found


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def rates(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay by the parameter's name."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def lazy_optimizer(cfg: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
    cfg.optimizer.params.model = model
    return instantiate(cfg.optimizer)


def test_there_is_a_leaf_for_each_size_and_a_twin_for_each_leaf() -> None:
    sizes = {f"mask_rcnn_hiera_{size}" for size in ("t", "s", "b", "bplus", "l", "h")}
    cascades = {f"cascade_mask_rcnn_hiera_{size}" for size in ("b", "bplus", "l", "h")}
    kinds = ("faster_rcnn", "keypoint_rcnn", "retinanet", "fcos", "panoptic_fpn", "semantic_fpn")
    others = {f"{name}_hiera_b_1x" for name in kinds}
    assert {leaf.stem.removesuffix("_100ep") for leaf in LEAVES} == sizes | cascades | others
    assert [twin for _, twin in TWINS if not twin.is_file()] == []


@pytest.mark.parametrize(("leaf", "twin"), TWINS, ids=TWIN_IDS)
def test_the_detector_is_the_twins_in_full_size(leaf: Path, twin: Path) -> None:
    with torch.device("meta"):
        ours = instantiate(load(leaf).model)
        theirs = build_model(load_yaml(twin, {"MODEL.DEVICE": "meta"}))
    assert shapes(ours) == shapes(theirs)
    assert settings(ours) == settings(theirs)


@pytest.mark.parametrize(("leaf", "twin"), TWINS, ids=TWIN_IDS)
def test_the_detector_finds_what_the_twin_finds(leaf: Path, twin: Path) -> None:
    ours, theirs = instantiate(small_lazy(leaf).model).eval(), build_model(load_yaml(twin, small_keys(twin))).eval()
    theirs.load_state_dict(ours.state_dict())
    images = [{"image": torch.randint(0, 256, (3, 96, 128)).float(), "height": 96, "width": 128}] * 2
    with torch.no_grad():
        ((one, _), (other, _)) = (model(images) for model in (ours, theirs))
    assert one.keys() == other.keys()
    if "sem_seg" in one:
        assert torch.equal(one["sem_seg"], other["sem_seg"])
    if "instances" not in one:
        return
    found, expected = one["instances"], other["instances"]
    assert len(found) > 0
    assert found.get_fields().keys() == expected.get_fields().keys()
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    torch.testing.assert_close(found.scores, expected.scores)
    assert found.pred_classes.tolist() == expected.pred_classes.tolist()
    for name in {"pred_masks", "pred_keypoints"} & found.get_fields().keys():
        assert torch.equal(found.get(name), expected.get(name))


@pytest.mark.parametrize(("leaf", "twin"), OTHERS, ids=[leaf.stem for leaf, _ in OTHERS])
def test_a_step_of_another_detector_has_the_twins_losses_and_gradients(leaf: Path, twin: Path) -> None:
    ours, theirs = instantiate(small_lazy(leaf).model).train(), build_model(load_yaml(twin, small_keys(twin))).train()
    theirs.load_state_dict(ours.state_dict())
    found = Instances((96, 128), gt_boxes=Boxes(torch.tensor([[8.0, 8.0, 70.0, 60.0]])), gt_classes=torch.tensor([2]))
    found.gt_masks = BitMasks(torch.ones(1, 96, 128, dtype=torch.bool))
    found.gt_keypoints = Keypoints(torch.tensor([[[20.0, 20.0, 2.0]] * 17]))
    image = {"image": torch.randint(0, 256, (3, 96, 128)).float(), "sem_seg": torch.randint(0, 54, (96, 128))}
    images = [image | {"instances": found}] * 2
    steps = []
    for model in (ours, theirs):
        torch.manual_seed(1)  # drop path, and the samples of two stages
        with EventStorage():
            losses = model(images)
        sum(losses.values()).backward()
        steps.append((losses, {name: parameter.grad for name, parameter in model.named_parameters()}))
    torch.testing.assert_close(*steps)


@pytest.mark.parametrize(("leaf", "twin"), TWINS, ids=TWIN_IDS)
def test_learning_rate_and_weight_decay_of_each_parameter_are_the_twins(leaf: Path, twin: Path) -> None:
    cfg, keys = small_lazy(leaf), load_yaml(twin, small_keys(twin))
    model, other = instantiate(cfg.model), build_model(keys)
    ours, theirs = lazy_optimizer(cfg, model), Trainer.build_optimizer(keys, other)
    assert type(ours).__name__ == type(theirs).__mro__[0].__name__ == "AdamW"
    assert norm_of_all(to_keys(load(leaf))) == norm_of_all(keys) == 1.0
    assert rates(model, ours) == rates(other, theirs)
    assert {rate for _, rate in rates(model, ours).values()} == {0.0, 0.1}
    betas = [(tuple(group["betas"]), group["eps"]) for optimizer in (ours, theirs) for group in optimizer.param_groups]
    assert set(betas) == {((0.9, 0.999), 1e-8)}


@pytest.mark.parametrize(("leaf", "twin"), TWINS, ids=TWIN_IDS)
def test_the_schedule_is_the_twins(leaf: Path, twin: Path) -> None:
    cfg, keys = load(leaf), load_yaml(twin, {"SOLVER.IMAGES_PER_EPOCH": 118287})
    resolve_schedule(keys)
    length = 22179 if leaf.stem.endswith("1x") else 184824
    assert cfg.train.max_iter == keys.SOLVER.MAX_ITER == length
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    ours, theirs = instantiate(cfg.lr_multiplier), DefaultTrainer.build_lr_scheduler(keys, optimizer)
    # Warm-up ends at 250; the drops are at 8/9 and 26/27 of the training.
    drops = (math.ceil(length * 8 / 9), math.ceil(length * 26 / 27))
    iterations = (0, 1, 125, 249, 250, 251, 9000, drops[0] - 1, drops[0], drops[1] - 1, drops[1], length - 1)
    found = [ours(iteration / length) for iteration in iterations]
    assert found == pytest.approx([theirs._multiplier(iteration / length) for iteration in iterations])
    assert found[0] == pytest.approx(0.001)
    assert found[-5:] == pytest.approx([1.0, 0.1, 0.1, 0.01, 0.01])


def test_another_length_of_training_moves_the_drops_but_not_the_end_of_warm_up() -> None:
    schedule = instantiate(load(LEAVES[0], "train.max_iter=2700").lr_multiplier)
    assert [schedule(i / 2700) for i in (250, 2399, 2400, 2599, 2600)] == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01])
    assert schedule(249 / 2700) < 1.0


def test_warm_up_takes_at_most_the_whole_training() -> None:
    assert warmup_length(250, 1000) == 0.25
    assert warmup_length(250, 2) == 1.0


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    """A detectron2 record of an image with two objects."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    polygons = [[5.0, 5.0, 60.0, 8.0, 40.0, 50.0], [50.0, 10.0, 78.0, 10.0, 78.0, 55.0, 50.0, 55.0]]
    objects = [
        {"bbox": [5, 5, 20, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": index, "segmentation": [polygon]}
        for index, polygon in enumerate(polygons)
    ]
    return {"file_name": str(tmp_path / "a.png"), "height": 60, "width": 80, "image_id": 1, "annotations": objects}


@pytest.mark.parametrize(("leaf", "twin"), SOME, ids=[leaf.stem for leaf, _ in SOME])
def test_training_samples_are_the_twins(leaf: Path, twin: Path, record: dict[str, Any]) -> None:
    ours, theirs = instantiate(load(leaf).dataloader.train.mapper), build_train_mapper(load_yaml(twin, {}))
    sizes = set()
    for seed in range(6):
        samples = []
        for mapper in (ours, theirs):
            np.random.seed(seed)
            samples.append(mapper(record))
        found, expected = samples
        assert torch.equal(found["image"], expected["image"])
        assert torch.equal(found["instances"].gt_boxes.tensor, expected["instances"].gt_boxes.tensor)
        assert found["instances"].gt_classes.tolist() == expected["instances"].gt_classes.tolist()
        assert found["instances"].has("gt_masks") == expected["instances"].has("gt_masks")
        sizes.add(tuple(found["image"].shape))
    assert len(sizes) > 1


@pytest.mark.parametrize(("leaf", "twin"), SOME, ids=[leaf.stem for leaf, _ in SOME])
def test_test_samples_are_the_twins(leaf: Path, twin: Path, record: dict[str, Any]) -> None:
    ours, theirs = instantiate(load(leaf).dataloader.test.mapper), DatasetMapper(load_yaml(twin, {}), False)
    found, expected = ours(record), theirs(record)
    assert max(found["image"].shape) == (1067 if leaf.stem.endswith("1x") else 1024)
    assert torch.equal(found["image"], expected["image"])


def test_heads_without_a_norm_can_be_asked_for() -> None:
    cfg = small_lazy(CONFIGS / "lazy" / "mask_rcnn_hiera_t_100ep.py")
    heads = (cfg.model.roi_heads.box_head, cfg.model.roi_heads.mask_head)
    for head, kind in zip(heads, (HieraBoxHead, HieraMaskHead), strict=True):
        assert any("norm" in name for name, _ in instantiate(head).named_parameters())
        head.conv_norm = ""
        built = instantiate(head)
        assert isinstance(built, kind)
        assert not any("norm" in name for name, _ in built.named_parameters())


def test_the_backbone_takes_its_channels_from_the_trunk_and_refuses_an_odd_square() -> None:
    trunk = build_hiera("tiny", embed_dim=16, depths=(1, 1, 1, 1))
    backbone = build_fpn_backbone(trunk, out_channels=8, norm="", square_pad=64)
    assert {name: shape.channels for name, shape in backbone.output_shape().items()} == dict.fromkeys(
        ("p2", "p3", "p4", "p5", "p6"), 8
    )
    assert {tuple(map_.shape[2:]) for map_ in backbone(torch.zeros(1, 3, 40, 64)).values()} >= {(16, 16), (1, 1)}
    with pytest.raises(InputError, match="multiple of 32"):
        build_fpn_backbone(trunk, square_pad=100)
