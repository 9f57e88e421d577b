"""Parameter groups and the choice of optimizer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

import hiera_det.d2  # noqa: F401  registers
from hiera_det.d2.config.load import load_config
from hiera_det.d2.train.solver import build_optimizer, param_groups
from hiera_det.errors import InputError
from hiera_det.modeling.pyramid import LayerNorm2d
from hiera_det.zoo import hiera_base

CONFIGS = Path(__file__).parents[2] / "configs"
BASE = str(CONFIGS / "mask_rcnn_hiera_t_1x.yaml")
TINY = ["MODEL.DEVICE", "cpu", "MODEL.HIERA.EMBED_DIM", "16", "MODEL.HIERA.DEPTHS", "[1, 1, 1, 1]"]


@pytest.mark.parametrize("positions", ["interpolate", "absolute_win"])
def test_every_parameter_is_in_one_group_with_its_weight_decay(positions: str) -> None:
    cfg = load_config(BASE, [*TINY, "SOLVER.WEIGHT_DECAY", "0.3", "MODEL.HIERA.POS_EMBED", positions])
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    decay = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(decay)
    assert set(decay) == set(model.parameters())
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            spared = name in ("pos_embed", "pos_embed_window") or isinstance(
                module, nn.LayerNorm | LayerNorm2d | nn.GroupNorm
            )
            assert decay[parameter] == (0.0 if spared else 0.3), (module, name)


#: Blocks in all of each size, and SAM 2's layer decay (SAM 2 paper, Table 13a; for the sizes it lacks, one near it).
SIZES = {"t": (12, 0.8), "s": (16, 0.8), "b": (24, 0.9), "bplus": (24, 0.9), "l": (48, 0.925), "h": (48, 0.925)}
NORMS = re.compile(r"(\.|^)(norm\d?|conv_norm)\.|\.neck\.(lateral|output)\.p\d\.1\.")


def layer(name: str, blocks: int) -> int:
    """Number of a parameter's layer by the rule: stem and positions 0, block i (from 0) i + 1, all else after them."""
    if not name.startswith("backbone.trunk."):
        return blocks + 1
    inside = name.removeprefix("backbone.trunk.")
    if inside.startswith(("patch_embed.", "pos_embed")):
        return 0
    assert inside.startswith("blocks."), name
    return int(inside.split(".")[1]) + 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("positions", ["interpolate", "absolute_win"])
def test_every_parameters_learning_rate_and_weight_decay_follow_the_rule(size: str, positions: str) -> None:
    blocks, decay = SIZES[size]
    opts = ["SOLVER.LAYER_DECAY", str(decay), "MODEL.DEVICE", "meta", "MODEL.HIERA.POS_EMBED", positions]
    cfg = load_config(str(CONFIGS / f"mask_rcnn_hiera_{size}.yaml"), opts)
    with torch.device("meta"):  # names and shapes; huge has 2.8 GB of weights
        model = build_model(cfg)
    groups = param_groups(
        model, base_lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY, layer_decay=cfg.SOLVER.LAYER_DECAY
    )
    found = {
        parameter: (group["lr"] / cfg.SOLVER.BASE_LR, group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    table = {}
    for name, parameter in model.named_parameters():
        table[name] = found.pop(parameter)
        spared = NORMS.search(name) or name.rpartition(".")[2].startswith("pos_embed")
        assert table[name][0] == pytest.approx(decay ** (blocks + 1 - layer(name, blocks))), name
        assert table[name][1] == (0.0 if spared else 0.1), name
    assert not found
    # By hand: the stem is lowest, the last block one step below the heads.
    lowest = {"t": 0.8**13, "s": 0.8**17, "b": 0.9**25, "bplus": 0.9**25, "l": 0.925**49, "h": 0.925**49}[size]
    assert table["backbone.trunk.patch_embed.proj.weight"] == (pytest.approx(lowest), 0.1)
    assert table["backbone.trunk.pos_embed"] == (pytest.approx(lowest), 0.0)
    assert table[f"backbone.trunk.blocks.{blocks - 1}.mlp.fc1.weight"] == (pytest.approx(decay), 0.1)
    assert table["roi_heads.box_predictor.cls_score.weight"] == (1.0, 0.1)
    assert ("backbone.trunk.pos_embed_window" in table) == (positions == "absolute_win")


def test_without_layer_decay_there_is_one_learning_rate() -> None:
    cfg = load_config(BASE, TINY)
    groups = param_groups(build_model(cfg), base_lr=3.0, weight_decay=0.1)
    assert {group["lr"] for group in groups} == {3.0}
    assert len(groups) == 2


def test_all_parts_of_a_video_trunks_position_embedding_are_spared_weight_decay() -> None:
    trunk = hiera_base(frames=16, depths=(1, 1, 1, 1), embed_dim=16)
    decay = {
        p: group["weight_decay"]
        for group in param_groups(trunk, base_lr=1.0, weight_decay=0.1)
        for p in group["params"]
    }
    assert decay[trunk.pos_embed_spatial] == decay[trunk.pos_embed_temporal] == 0.0
    assert decay[trunk.patch_embed.proj.weight] == 0.1


@pytest.mark.parametrize("factor", ["0.0", "-0.5", "1.1"])
def test_a_layer_decay_outside_its_range_is_refused(factor: str) -> None:
    with pytest.raises(InputError, match=r"SOLVER\.LAYER_DECAY"):
        build_optimizer(load_config(BASE, ["SOLVER.LAYER_DECAY", factor]), nn.Linear(2, 2))


@pytest.mark.parametrize(("name", "base"), [("ADAMW", torch.optim.AdamW), ("SGD", torch.optim.SGD)])
def test_the_named_optimizer_is_built(name: str, base: type) -> None:
    betas = ["SOLVER.BETAS", "[0.8, 0.9]"] if name == "ADAMW" else []
    cfg = load_config(BASE, [*TINY, "SOLVER.OPTIMIZER", name, *betas])
    optimizer = build_optimizer(cfg, nn.Linear(2, 2))
    assert isinstance(optimizer, base)
    assert optimizer.defaults.get("betas", (0.8, 0.9)) == (0.8, 0.9)


@pytest.mark.parametrize(
    ("opts", "says"),
    [
        (["SOLVER.OPTIMIZER", "LION"], r"SOLVER\.OPTIMIZER 'LION': choose ADAMW or SGD"),
        (["SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "all"], "CLIP_TYPE 'all'"),
    ],
)
def test_unknown_names_are_refused(opts: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        build_optimizer(load_config(BASE, opts), nn.Linear(2, 2))
    assert "\n" not in str(caught.value)


def test_frozen_parameters_are_in_no_group() -> None:
    cfg = load_config(BASE, TINY)
    model = build_model(cfg)
    model.backbone.requires_grad_(False)
    held = {p for group in build_optimizer(cfg, model).param_groups for p in group["params"]}
    assert held == {p for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("kind", "expected"), [("full_model", (0.6, 0.8)), ("norm", (1.0, 1.0)), ("value", (1.0, 1.0))]
)
def test_gradients_are_clipped_together_or_one_by_one(kind: str, expected: tuple[float, float]) -> None:
    clip = "SOLVER.CLIP_GRADIENTS."
    opts = [clip + "ENABLED", "True", clip + "CLIP_TYPE", kind, clip + "CLIP_VALUE", "1.0"]
    opts += ["SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", "1.0", "SOLVER.MOMENTUM", "0.0", "SOLVER.WEIGHT_DECAY", "0.0"]
    model = nn.ParameterDict({"a": torch.zeros(1), "b": torch.zeros(1)})
    optimizer = build_optimizer(load_config(BASE, opts), model)
    model["a"].grad, model["b"].grad = torch.tensor([3.0]), torch.tensor([4.0])
    optimizer.step()
    assert (-model["a"].item(), -model["b"].item()) == pytest.approx(expected)


def test_adamw_on_a_cpu_steps_as_pytorchs_plain_one() -> None:
    cfg = load_config(
        BASE, ["SOLVER.BASE_LR", "1e-2", "SOLVER.WEIGHT_DECAY", "0.3", "SOLVER.CLIP_GRADIENTS.ENABLED", "False"]
    )
    ours, theirs = nn.Linear(50, 70), nn.Linear(50, 70)
    theirs.load_state_dict(ours.state_dict())
    optimizers = [build_optimizer(cfg, ours), torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.3)]
    assert optimizers[0].defaults["fused"]
    for _ in range(20):
        gradients = [torch.randn_like(parameter) for parameter in ours.parameters()]
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-6)
