"""A training goes on from a whole, finite checkpoint of its own model, or says what is wrong in one line."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from hiera_det.errors import InputError
from hiera_det.weights.training_state import check_optimizer_state, check_training_state


def trained(width: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(4, width)
    optimizer = torch.optim.AdamW([{"params": [model.weight]}, {"params": [model.bias], "weight_decay": 0.0}])
    model(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.fixture
def state() -> dict[str, Any]:
    model, optimizer = trained()
    ema = {"steps": 1, "average": deepcopy(dict(model.state_dict()))}
    return {"model": model.state_dict(), "trainer": {"optimizer": optimizer.state_dict()}, "ema": ema, "iteration": 1}


def test_a_whole_checkpoint_is_taken(state: dict[str, Any]) -> None:
    check_training_state(state, "model.pth", ("model", "trainer", "iteration"))
    check_optimizer_state(state["trainer"]["optimizer"], trained()[1], "model.pth")


def test_a_part_that_is_missing_is_named(state: dict[str, Any]) -> None:
    del state["trainer"]
    with pytest.raises(InputError, match=r"^model\.pth: is no checkpoint of a training \(no trainer\)"):
        check_training_state(state, "model.pth", ("model", "trainer", "iteration"))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("path", ["model.weight", "trainer.optimizer.state.1.exp_avg_sq", "ema.average.bias"])
def test_what_is_not_finite_is_named_by_its_path(state: dict[str, Any], path: str, value: float) -> None:
    place: Any = state
    for key in path.split("."):
        place = place[int(key) if key.isdigit() else key]
    place.view(-1)[1] = value
    with pytest.raises(
        InputError, match=rf"^model\.pth: has NaN or infinite values in {path}: the training had diverged"
    ):
        check_training_state(state, "model.pth")


def broken(kind: str, saved: dict[str, Any]) -> Any:
    """An optimizer's state with a fault."""
    match kind:
        case "empty":
            return {}
        case "a list":
            return [1]
        case "no groups":
            return saved | {"param_groups": {}}
        case "groups of nothing":
            return saved | {"param_groups": [1, 2]}
        case "one group":
            return saved | {"param_groups": saved["param_groups"][:1]}
        case "a rate in words":
            saved["param_groups"][1]["lr"] = "fast"
        case "no rate":
            del saved["param_groups"][0]["lr"]
        case "an endless rate":
            saved["param_groups"][0]["lr"] = float("inf")
        case "a number for a state":
            saved["state"][0] = 5
        case _:
            saved["param_groups"][0]["params"] = ["weight"]
    return saved


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("empty", "is a dict without state or groups"),
        ("a list", "is a list without state or groups"),
        ("no groups", "is a dict without state or groups"),
        ("groups of nothing", "has groups without parameters"),
        ("one group", "has 1 parameters in 1 groups, and the model has 2 in 2"),
        ("a rate in words", "has lr 'fast', which is no number"),
        ("no rate", "has lr None, which is no number"),
        ("an endless rate", "has lr inf, which is no number"),
        ("a number for a state", "has 5 for parameter 0"),
        ("a name for a number", "has None for parameter 'weight'"),
    ],
)
def test_what_is_no_state_of_this_optimizer_is_named(state: dict[str, Any], kind: str, says: str) -> None:
    saved = broken(kind, state["trainer"]["optimizer"])
    with pytest.raises(InputError, match=rf"^model\.pth: its optimizer {says}; resume with the settings"):
        check_optimizer_state(saved, trained()[1], "model.pth")


def test_another_models_optimizer_is_named_by_its_shapes(state: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"has exp_avg of shape \[3, 4\] for a parameter of \[5, 4\]"):
        check_optimizer_state(state["trainer"]["optimizer"], trained(5)[1], "model.pth")
