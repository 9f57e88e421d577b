"""Neck and heads that are recomputed in the backward pass (hiera_det/d2/model/recompute.py)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import LazyConfig
from detectron2.utils.events import EventStorage

from hiera_det.d2.config.setup import setup_config
from hiera_det.d2.lazy.trainer import trainer_class
from hiera_det.d2.lazy.translate import to_keys
from hiera_det.d2.train.trainer import Trainer
from hiera_det.data.shapes import ShapesPaths, write_shapes_dataset
from hiera_det.errors import InputError

LEAF = str(Path(__file__).parents[2] / "configs" / "lazy" / "mask_rcnn_hiera_t_100ep.py")
SAVING = ["MODEL.HIERA.USE_CHECKPOINT", "True"]
CASCADE = ["MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> ShapesPaths:
    return write_shapes_dataset(tmp_path_factory.mktemp("shapes"), train=4, val=3, size=64)


@pytest.mark.parametrize("more", [[], CASCADE], ids=["mask", "cascade"])
def test_losses_and_gradients_are_the_same_to_the_bit_and_less_is_kept(
    more: list[str], tmp_path: Path, shapes: ShapesPaths, training_arguments: Callable[..., Any]
) -> None:
    found, kept = [], []
    for keys in ([], SAVING):
        cfg = setup_config(training_arguments(tmp_path, shapes, *more, *keys))
        torch.manual_seed(0)
        model = Trainer.build_model(cfg).train()
        model = copy.deepcopy(model)  # whose parts must not compute with the first one's parameters
        batch = next(iter(Trainer.build_train_loader(cfg)))
        sizes: dict[int, int] = {}

        def keep(x: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[x.untyped_storage()._cdata] = x.untyped_storage().nbytes()
            return x

        torch.manual_seed(0)
        with EventStorage(1), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            losses = model(batch)
        sum(losses.values()).backward()
        found.append({**losses, **{name: p.grad for name, p in model.named_parameters()}})
        kept.append(sum(sizes.values()))
    plain, saving = found
    assert plain.keys() == saving.keys()
    assert all(torch.equal(plain[name], saving[name]) for name in plain)
    assert kept[1] < 0.6 * kept[0]


def test_named_parts_alone_are_recomputed(
    tmp_path: Path, shapes: ShapesPaths, training_arguments: Callable[..., Any]
) -> None:
    key = ["MODEL.HIERA.CHECKPOINT_STAGES", "['heads', 'stage1']"]
    model: Any = Trainer.build_model(setup_config(training_arguments(tmp_path, shapes, *key)))
    assert model.backbone.trunk.options.checkpoint_stages == ("stage1",)
    assert type(model.backbone.neck).__mro__[1].__name__ == "_Pyramid"
    assert type(model.roi_heads.box_head).__mro__[1].__name__ == "HieraBoxHead"
    assert type(model.proposal_generator.rpn_head).__mro__[1].__name__ == "HieraRPNHead"


def test_a_lazyconfigs_parts_are_recomputed_and_its_trunk_has_a_node_of_its_own() -> None:
    lazy = LazyConfig.load(LEAF)
    lazy.train.device, lazy.train.recompute = "cpu", ["heads"]
    model: Any = trainer_class(lazy).build_model(to_keys(lazy))
    assert type(model.roi_heads.mask_head).layers is not type(model.roi_heads.mask_head).__bases__[0].layers
    lazy.train.recompute = ["stage1"]
    with pytest.raises(InputError, match=r"train\.recompute stage1: model\.backbone\.trunk\.use_checkpoint has"):
        to_keys(lazy)
