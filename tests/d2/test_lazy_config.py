"""Loading LazyConfigs and setting their nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from detectron2.config import instantiate
from omegaconf import OmegaConf

from hiera_det.d2.lazy.files import load_lazy_config, walk
from hiera_det.errors import InputError

LEAF = str(Path(__file__).parents[2] / "configs" / "lazy" / "cascade_mask_rcnn_hiera_b_100ep.py")


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("optimizer.lr=1e-4", "optimizer.lr", 1e-4),
        ("optimizer.lr=1e-4", "optimizer.params.base_lr", 1e-4),
        ("model.backbone.trunk.drop_path_rate=0.3", "model.backbone.trunk.drop_path_rate", 0.3),
        ("model.backbone.trunk.use_checkpoint=[stage1]", "model.backbone.trunk.use_checkpoint", ["stage1"]),
        ("model.roi_heads.num_classes=3", "model.roi_heads.box_predictors[2].num_classes", 3),
        ("model.backbone.out_channels=64", "model.roi_heads.box_heads[1].input_shape.channels", 64),
        ("model.roi_heads.box_heads.1.fc_dims=[512]", "model.roi_heads.box_predictors[1].input_shape.channels", 512),
        (
            "dataloader.train.mapper.augmentations.1.max_scale=1.5",
            "dataloader.train.mapper.augmentations[1].max_scale",
            1.5,
        ),
        ("dataloader.test.dataset.names=mine", "dataloader.evaluator.dataset_name", "mine"),
        ("train.output_dir=a/b-c_d", "dataloader.evaluator.output_dir", "a/b-c_d/inference"),
        ("train.loggers=[csv]", "train.loggers", ["csv"]),
        ("train.init_checkpoint=", "train.init_checkpoint", ""),
        ("train.init_checkpoint=https://x.org/a_b-c.pth", "train.init_checkpoint", "https://x.org/a_b-c.pth"),
        ("model.roi_heads.mask_in_features=null", "model.roi_heads.mask_in_features", None),
        ("optimizer.eps=1e-6", "optimizer.eps", 1e-6),  # an argument of AdamW that the config does not name
        ("+model.backbone.trunk.depths=[1,1,1,1]", "model.backbone.trunk.depths", [1, 1, 1, 1]),
    ],
)
def test_a_pair_sets_a_node_and_what_refers_to_it(override: str, key: str, value: Any) -> None:
    assert OmegaConf.select(load_lazy_config(LEAF, [override]), key) == value


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.backbone.trunk.drop_path=0.3", "did you mean model.backbone.trunk.drop_path_rate?"),
        ("dataloader.train.mapper.augmentations.7.max_scale=1", "unknown config key"),
        ("colour=red", "unknown config key colour"),
        ("~optimizer.lr", "give key=value"),
        ("optimizer.lr.deeper=1", "optimizer.lr.deeper"),
        ("train.output_dir=/data/a, b", "'train.output_dir=\"/data/a, b\"'"),
    ],
)
def test_a_pair_that_cannot_be_meant_is_refused(override: str, says: str) -> None:
    with pytest.raises(InputError) as raised:
        load_lazy_config(LEAF, [override])
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_reference_that_leads_nowhere_is_named() -> None:
    with pytest.raises(InputError, match=r"config node model\.roi_heads\.mask_pooler\.output_size: .*absent"):
        load_lazy_config(LEAF, ["model.roi_heads.mask_pooler.output_size='${model.absent}'"])


def test_two_loads_share_nothing() -> None:
    changed = load_lazy_config(LEAF, ["optimizer.lr=1.0"])
    changed.model.backbone.trunk.size = "tiny"
    again = load_lazy_config(LEAF)
    assert again.optimizer.lr == 3.5e-5
    assert again.model.backbone.trunk.size == "base"


def test_boxes_alone_need_no_mask_head() -> None:
    small = ["+model.backbone.trunk.embed_dim=16", "model.backbone.out_channels=16"]
    model = instantiate(load_lazy_config(LEAF, [*small, "model.roi_heads.mask_in_features=null"]).model)
    assert not any("mask" in name for name, _ in model.named_parameters())


def test_walk_names_nodes_and_leaves_callables_out() -> None:
    found = dict(walk({"a": {"_target_": print, "b": [1, {"c": 2}]}}))
    assert found == {"a": {"_target_": print, "b": [1, {"c": 2}]}, "a.b": [1, {"c": 2}], "a.b.0": 1} | {
        "a.b.1": {"c": 2},
        "a.b.1.c": 2,
    }
