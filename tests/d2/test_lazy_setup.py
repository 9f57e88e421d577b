"""LazyConfigs under the YAML configs' keys: the same recipe, the same checks, other words."""

from __future__ import annotations

import copy
import json
import shutil
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode, instantiate
from omegaconf import OmegaConf
from PIL import Image

from hiera_det.d2.config.load import load_config
from hiera_det.d2.config.request import RunRequest
from hiera_det.d2.config.schedule import resolve_schedule
from hiera_det.d2.config.unread import READERS
from hiera_det.d2.lazy.files import load_lazy_config, walk
from hiera_det.d2.lazy.run import setup_lazy_config
from hiera_det.d2.lazy.translate import NODES, naming_nodes, to_keys
from hiera_det.d2.lazy.values import ARGUMENTS, check_values
from hiera_det.errors import InputError

CONFIGS = Path(__file__).parents[2] / "configs"
LEAVES = sorted((CONFIGS / "lazy").glob("*.py"))
KEYPOINT = CONFIGS / "lazy" / "keypoint_rcnn_hiera_b_1x.py"
CASCADE = CONFIGS / "lazy" / "cascade_mask_rcnn_hiera_b_100ep.py"
SIDE = 16
POLYGON = [[2, 2, 10, 2, 10, 8, 2, 8]]
RLE = {"size": [SIDE, SIDE], "counts": [20, 8, SIDE * SIDE - 28]}


def value_of(cfg: CfgNode, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def arguments(config: Path, *overrides: str, **flags: Any) -> RunRequest:
    return RunRequest(str(config), overrides, **flags)


@pytest.fixture
def own(tmp_path: Path) -> dict[str, str]:
    """Flags of own training data: two classes, masks in RLE."""
    objects = [
        {"id": i, "image_id": 1, "category_id": i, "bbox": [2, 2, 8, 6], "area": 48, "iscrowd": 0, "segmentation": mask}
        for i, mask in enumerate((POLYGON, RLE), start=1)
    ]
    image = {"id": 1, "file_name": "a.png", "width": SIDE, "height": SIDE}
    categories = [{"id": 1, "name": "fig"}, {"id": 2, "name": "date"}]
    data = {"info": {}, "images": [image], "annotations": objects, "categories": categories}
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "a.png")
    (tmp_path / "own.json").write_text(json.dumps(data))
    return {"train_json": str(tmp_path / "own.json"), "train_images": str(tmp_path)}


@pytest.mark.parametrize("leaf", LEAVES, ids=[leaf.stem for leaf in LEAVES])
def test_every_shared_setting_is_the_yaml_twins(leaf: Path) -> None:
    twin = load_config(str(CONFIGS / f"{leaf.stem.removesuffix('_100ep')}.yaml"))
    twin.SOLVER.IMAGES_PER_EPOCH = 118287
    resolve_schedule(twin)
    ours = to_keys(load_lazy_config(str(leaf)))
    also = ("INPUT.LSJ", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST", "SOLVER.REFERENCE_WORLD_SIZE")
    # A folder below the working directory in both, written otherwise; and ViTDet's habit of keeping the last hundred.
    own_names = {"OUTPUT_DIR", "SOLVER.KEEP_CHECKPOINTS"}
    for key in {*NODES, *also} - own_names:
        assert value_of(ours, key) == value_of(twin, key), key


def test_every_node_that_is_shared_is_there() -> None:
    configs = [load_lazy_config(str(leaf)) for leaf in (CASCADE, KEYPOINT)]
    absent = [{node for node in NODES.values() if OmegaConf.select(cfg, node) is None} for cfg in configs]
    assert absent[0] & absent[1] == {"dataloader.evaluator.kpt_oks_sigmas"}  # an argument of its callable
    assert absent[1] == absent[0] & absent[1]


def test_own_data_decide_names_classes_and_mask_format(own: dict[str, str], tmp_path: Path) -> None:
    given = ("train.init_checkpoint=", "dataloader.train.total_batch_size=2", f"train.output_dir={tmp_path / 'out'}")
    cfg, keys = setup_lazy_config(arguments(CASCADE, *given, "train.device=cpu", **own))
    heads = cfg.model.roi_heads
    assert [heads.num_classes, heads.mask_head.num_classes] == [2, 2]
    assert [predictor.num_classes for predictor in heads.box_predictors] == [2, 2, 2]
    assert cfg.dataloader.train.mapper.instance_mask_format == "bitmask"
    assert cfg.dataloader.train.dataset.filter_empty is False
    assert (cfg.dataloader.train.dataset.names,) == keys.DATASETS.TRAIN
    assert cfg.dataloader.train.dataset.names.startswith("hiera_det_own_")
    assert list(cfg.dataloader.test.dataset.names) == []
    assert keys.DATASETS.TEST == ()
    assert keys.SOLVER.IMAGES_PER_EPOCH == 1


def test_own_keypoints_reach_their_head(own: dict[str, str], tmp_path: Path) -> None:
    data = json.loads(Path(own["train_json"]).read_text())
    for category in data["categories"]:
        category["keypoints"] = ["left", "right", "tip"]
    for annotation in data["annotations"]:
        annotation["keypoints"], annotation["num_keypoints"] = [1, 1, 2, 3, 1, 2, 2, 4, 2], 3
    Path(own["train_json"]).write_text(json.dumps(data))
    given = ("train.init_checkpoint=", "dataloader.train.total_batch_size=2", f"train.output_dir={tmp_path / 'out'}")
    cfg, keys = setup_lazy_config(arguments(KEYPOINT, *given, "train.device=cpu", **own))
    assert cfg.model.roi_heads.keypoint_head.num_keypoints == keys.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS == 3
    assert cfg.dataloader.train.dataset.min_keypoints == 0
    assert list(instantiate(cfg.dataloader.train.mapper).keypoint_hflip_indices) == [1, 0, 2]
    without = [*given, "train.device=cpu", "+dataloader.train.mapper.use_keypoint=true"]
    with pytest.raises(InputError, match=r"use_keypoint true: there is no model\.roi_heads\.keypoint_head"):
        setup_lazy_config(arguments(CASCADE, *without, **own))


def test_semantic_maps_are_asked_of_the_data(own: dict[str, str], tmp_path: Path) -> None:
    given = ("train.init_checkpoint=", "dataloader.train.total_batch_size=2", f"train.output_dir={tmp_path / 'out'}")
    leaf = CONFIGS / "lazy" / "semantic_fpn_hiera_b_1x.py"
    with pytest.raises(InputError, match=r"SemanticSegmentor: learns from semantic maps, and data set .* has none"):
        setup_lazy_config(arguments(leaf, *given, "train.device=cpu", **own))


@pytest.mark.parametrize("name", ["faster_rcnn", "retinanet", "fcos"])
def test_own_classes_reach_detectors_of_boxes(name: str, own: dict[str, str], tmp_path: Path) -> None:
    given = ("train.init_checkpoint=", "dataloader.train.total_batch_size=2", f"train.output_dir={tmp_path / 'out'}")
    leaf = CONFIGS / "lazy" / f"{name}_hiera_b_1x.py"
    cfg, keys = setup_lazy_config(arguments(leaf, *given, "train.device=cpu", **own))
    assert keys.MODEL.ROI_HEADS.NUM_CLASSES == 2
    if name == "faster_rcnn":
        assert cfg.model.roi_heads.box_predictor.num_classes == 2
    else:
        assert [cfg.model.num_classes, cfg.model.head.num_classes] == [2, 2]
        assert "roi_heads" not in cfg.model


def test_settings_that_nothing_reads_are_named(
    own: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = ("train.init_checkpoint=", "train.device=cpu", f"train.output_dir={tmp_path / 'out'}")
    setup_lazy_config(arguments(CASCADE, *given, **own))
    assert not any("without effect" in message for message in caplog.messages)
    config = tmp_path / "lazy" / "mine.py"
    shutil.copytree(CONFIGS / "lazy", config.parent)
    config.write_text(f"{CASCADE.read_text()}\ntrain.log_period = 20\n")
    setup_lazy_config(arguments(config, *given, **own))
    assert any("train.log_period" in message for message in caplog.messages)
    with pytest.raises(InputError, match=r"\+train\.ddp\.fp16_compression=true: nothing here reads it"):
        setup_lazy_config(arguments(CASCADE, *given, "+train.ddp.fp16_compression=true", **own))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.max_iter=long", "train.max_iter long: give a whole number"),
        ("train.max_iter=2.5", "train.max_iter 2.5: give a whole number"),
        ("train.max_iter=0", "train.max_iter 0: give a whole number of at least 1"),
        ("optimizer.lr=true", "optimizer.lr True: give a number above 0"),
        ("optimizer.lr=-1", "optimizer.lr -1"),
        ("optimizer.lr=nan", "optimizer.lr nan"),
        ("optimizer.weight_decay=x", "optimizer.weight_decay x: give a number"),
        ("train.output_dir=3", "train.output_dir 3: give text"),
        ("train.amp.enabled=maybe", "train.amp.enabled maybe: give True or False"),
        ("train.parallel=both", "train.parallel 'both': choose ddp or fsdp"),
        ("train.checkpointer.period=0", "train.checkpointer.period 0: give a whole number of at least 1"),
    ],
)
def test_a_value_that_its_key_does_not_take_is_named_by_its_node(override: str, says: str) -> None:
    with pytest.raises(InputError) as raised:
        to_keys(load_lazy_config(str(CASCADE), [override]))
    assert says in str(raised.value)


#: A value that the kind of each key refuses.
WRONG: dict[str, Any] = {
    "INPUT.FORMAT": "RBG",
    "DATALOADER.NUM_WORKERS": -1,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "RoIAlign",
    "SOLVER.WARMUP_METHOD": "slow",
}


def test_every_argument_takes_what_the_key_takes_and_nothing_else() -> None:
    lazy = load_lazy_config(str(CASCADE))
    check_values(lazy)
    found = {}
    for name, value in walk(OmegaConf.to_container(lazy, resolve=False)):
        for key, patterns in ARGUMENTS.items():
            refers = isinstance(value, str) and value.startswith("${")
            if key in found or refers or not any(fnmatchcase(name, pattern) for pattern in patterns.split()):
                continue
            found[key] = name
            OmegaConf.update(wrong := copy.deepcopy(lazy), name, WRONG.get(key, [[-7]]), merge=False)
            with pytest.raises(InputError) as raised:
                check_values(wrong)
            assert str(raised.value).startswith(f"{name} ")
            assert READERS[key][1].words in str(raised.value)
    absent = {key for key in ARGUMENTS if key.startswith(("MODEL.RETINANET", "SOLVER.MOMENTUM", "MODEL.PROPOSAL_"))}
    assert found.keys() == ARGUMENTS.keys() - absent - {"MODEL.RPN.BBOX_REG_LOSS_TYPE", "MODEL.RPN.SMOOTH_L1_BETA"}


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model.input_format=BGR"], "model.input_format BGR, dataloader.train.mapper.image_format RGB, "),
        (["model.pixel_mean=[1.0]"], "model.pixel_mean has 1 channels and model.pixel_std 3"),
        (["+model.roi_heads.box_predictors.1.smooth_l1_beta=-1"], "smooth_l1_beta -1: give a number of at least 0"),
        (["train.device=gpu"], "train.device gpu: choose cuda or cpu"),
    ],
)
def test_values_that_the_yaml_configs_refuse_are_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(InputError) as raised:
        setup_lazy_config(arguments(CASCADE, *overrides))
    assert says in str(raised.value)


def test_another_order_of_channels_than_the_mean_is_told(caplog: pytest.LogCaptureFixture) -> None:
    check_values(load_lazy_config(str(CASCADE), ["model.input_format=BGR", "dataloader.train.mapper.image_format=BGR"]))
    assert "image_format BGR, and model.pixel_mean [123.675, 116.28, 103.53] is of RGB" in caplog.text


def test_a_key_of_a_check_becomes_the_node_that_the_user_can_set() -> None:
    with pytest.raises(InputError) as raised, naming_nodes():
        raise InputError("set OUTPUT_DIR, MODEL.WEIGHTS or SOLVER.AMP.PRECISION; SOLVER.AMP.PRECISION.X stays")
    assert str(raised.value) == (
        "set train.output_dir, train.init_checkpoint or train.amp.precision; SOLVER.AMP.PRECISION.X stays"
    )


def test_boxes_without_masks_are_told_what_to_set(own: dict[str, str], tmp_path: Path) -> None:
    path = Path(own["train_json"])
    data = json.loads(path.read_text())
    for annotation in data["annotations"]:
        del annotation["segmentation"]
    path.write_text(json.dumps(data))
    boxes_only = [
        "model.roi_heads.mask_in_features=null",
        "dataloader.train.mapper.use_instance_mask=false",
        "dataloader.train.mapper.recompute_boxes=false",
    ]
    given = ["train.init_checkpoint=", "train.device=cpu", f"train.output_dir={tmp_path / 'out'}"]
    with pytest.raises(InputError) as raised:
        setup_lazy_config(arguments(CASCADE, *given, **own))
    assert " ".join(boxes_only) in str(raised.value)
    _, keys = setup_lazy_config(arguments(CASCADE, *given, *boxes_only, **own))
    assert keys.MODEL.MASK_ON is False


def test_pictures_are_left_out_where_test_images_are_not_resized_to_an_edge() -> None:
    assert to_keys(load_lazy_config(str(CASCADE))).TEST.PICTURES == 8
    assert to_keys(load_lazy_config(str(CASCADE), ["dataloader.test.mapper.augmentations=[]"])).TEST.PICTURES == 0
