"""Our files in detectron2's own hands: its checkpointer and its trainer, with none of our classes around the model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model
from torch import Tensor, nn

import hiera_det.d2  # noqa: F401  registers
from hiera_det import add_hiera_config, build_hiera, hiera_classifier
from hiera_det.d2.config.load import load_config
from hiera_det.data.shapes import write_shapes_dataset
from hiera_det.errors import InputError
from hiera_det.weights.convert import convert, write
from hiera_det.weights.load import read_contents

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = {"embed_dim": 16, "num_heads": 1, "depths": (1, 1, 1, 1)}
OPTS = [
    "MODEL.DEVICE",
    "cpu",
    "MODEL.HIERA.PRETRAIN_SIZE",
    "224",
    "MODEL.HIERA.EMBED_DIM",
    "16",
    "MODEL.HIERA.DEPTHS",
    "[1, 1, 1, 1]",
]
OPTS += ["MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.CONV_DIM", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "16"]


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """A file as people download it, of a classifier, and the trunk in it."""
    state = {
        name: torch.randn_like(tensor) for name, tensor in hiera_classifier("tiny", 5, **TINY).state_dict().items()
    }
    torch.save({"model_state": state}, tmp_path / "published.pth")
    trunk = build_hiera("tiny", **TINY).state_dict()
    return tmp_path / "published.pth", {name: state[name] for name in trunk}


def model(*opts: str) -> nn.Module:
    return build_model(load_config(str(CONFIGS / "quick_start.yaml"), [*OPTS, *opts]))


def test_detectron2s_checkpointer_loads_what_was_converted_for_it(
    published: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    path, trunk = published
    write(convert(read_contents(path), "detectron2"), tmp_path / "trunk.pth")
    detector = model()
    DetectionCheckpointer(detector).load(str(tmp_path / "trunk.pth"))
    torch.testing.assert_close(dict(detector.backbone.trunk.state_dict()), trunk, rtol=0, atol=0)


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("behind", ["", "hiera.", "module."])
def test_a_trunk_under_its_own_names_is_refused_by_the_backbone(
    published: tuple[Path, dict[str, Tensor]], behind: str, wrapped: bool, tmp_path: Path
) -> None:
    state = {behind + name: tensor for name, tensor in published[1].items()}
    torch.save({"model": state} if wrapped else state, tmp_path / "trunk.pth")
    with pytest.raises(InputError, match=r"a trunk under other names .*: this would stay random; write .*detectron2"):
        DetectionCheckpointer(model()).load(str(tmp_path / "trunk.pth"))


def test_positions_of_another_size_are_refused_by_the_backbone(
    published: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    write(convert(read_contents(published[0]), "detectron2"), tmp_path / "trunk.pth")
    with pytest.raises(
        InputError, match=r"have no backbone\.trunk\.pos_embed of this model's size; set .*PRETRAIN_SIZE"
    ):
        DetectionCheckpointer(model("MODEL.HIERA.PRETRAIN_SIZE", "64")).load(str(tmp_path / "trunk.pth"))


def test_heads_alone_are_still_taken_by_a_plain_load() -> None:
    detector = model()
    heads = {name: torch.ones_like(t) for name, t in detector.state_dict().items() if not name.startswith("backbone")}
    incompatible = detector.load_state_dict(heads, strict=False)
    assert all(name.startswith("backbone.") for name in incompatible.missing_keys)
    assert detector.roi_heads.box_predictor.cls_score.bias.eq(1).all()


def test_detectron2s_trainer_begins_with_the_trunk(published: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    path, trunk = published
    write(convert(read_contents(path), "detectron2"), tmp_path / "trunk.pth")
    shapes = write_shapes_dataset(tmp_path / "data", train=4, val=2, size=64)
    register_coco_instances("plain_shapes", {}, str(shapes.train_json), str(shapes.train_images))
    cfg = load_config(str(CONFIGS / "quick_start.yaml"), OPTS)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST, cfg.DATALOADER.NUM_WORKERS = ("plain_shapes",), (), 0
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.IMS_PER_BATCH, cfg.INPUT.MIN_SIZE_TRAIN = 1, (), 2, (64,)
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False  # by the norm of all gradients, which is our optimizer's
    cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS = str(tmp_path), str(tmp_path / "trunk.pth")
    trainer = DefaultTrainer(cfg)
    trainer.resume_or_load(resume=False)
    torch.testing.assert_close(dict(trainer.model.backbone.trunk.state_dict()), trunk, rtol=0, atol=0)
    trainer.train()
    assert (tmp_path / "model_final.pth").is_file()


def test_the_readmes_code_builds_a_detector() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (CONFIGS.parent / "README.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "get_cfg()" in block]
    names: dict[str, Any] = {}
    exec(compile(block.replace("get_cfg()\n", "get_cfg()\ncfg.MODEL.DEVICE = 'cpu'\n"), "README.md", "exec"), names)
    images = [{"image": torch.zeros(3, 64, 96), "height": 64, "width": 96}]
    with torch.no_grad():
        assert len(names["model"].eval()(images)) == 1


def test_a_map_that_the_backbone_does_not_give_is_named() -> None:
    cfg = get_cfg()
    add_hiera_config(cfg)
    cfg.MODEL.DEVICE, cfg.MODEL.BACKBONE.NAME = "cpu", "build_hiera_fpn_backbone"
    with pytest.raises(InputError, match=r"gives no map 'res4': set MODEL\.RPN\.IN_FEATURES .* \['p2', 'p3', 'p4'"):
        build_model(cfg)
