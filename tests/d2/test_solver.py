"""Parameter groups and the choice of optimizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

import hiera_det.d2  # noqa: F401  registers
from hiera_det.d2.setup import load_config
from hiera_det.d2.solver import build_optimizer
from hiera_det.errors import InputError
from hiera_det.modeling.pyramid import LayerNorm2d

BASE = str(Path(__file__).parents[2] / "configs" / "mask_rcnn_hiera_t.yaml")
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


@pytest.mark.parametrize(("name", "base"), [("ADAMW", torch.optim.AdamW), ("SGD", torch.optim.SGD)])
def test_the_named_optimizer_is_built(name: str, base: type) -> None:
    cfg = load_config(BASE, [*TINY, "SOLVER.OPTIMIZER", name, "SOLVER.BETAS", "[0.8, 0.9]"])
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
    cfg = load_config(BASE, ["SOLVER.BASE_LR", "1e-2", "SOLVER.WEIGHT_DECAY", "0.3"])
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
