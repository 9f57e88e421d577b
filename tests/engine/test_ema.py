"""The average of the weights against its closed form."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor, nn

from hiera_det.engine.ema import EMA
from hiera_det.engine.settings import TrainSettings
from hiera_det.errors import InputError


def closed_form(history: list[Tensor], decay: float) -> Tensor:
    """The start and the weights after each step, with the factors that the recursion leaves on each."""
    decays = [min(decay, (1 + n) / (10 + n)) for n in range(len(history) - 1)]
    average = history[0] * torch.tensor(decays, dtype=torch.float64).prod()
    for n, weights in enumerate(history[1:]):
        average = average + weights * (1 - decays[n]) * torch.tensor(decays[n + 1 :], dtype=torch.float64).prod()
    return average


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.9999])
def test_the_average_is_its_closed_form(decay: float) -> None:
    model = nn.Linear(3, 2).double()
    ema, history = EMA(model, decay), [model.weight.detach().clone()]
    for _ in range(30):
        with torch.no_grad():
            model.weight.normal_()
        ema.update()
        history.append(model.weight.detach().clone())
    torch.testing.assert_close(ema.weights["weight"], closed_form(history, decay), rtol=1e-12, atol=1e-12)


def test_in_place_the_model_computes_with_the_average_and_gets_its_weights_back() -> None:
    model = nn.Linear(2, 1)
    ema = EMA(model, 0.9)
    start, images = model.state_dict()["weight"].clone(), torch.randn(4, 2)
    with torch.no_grad():
        model.weight.add_(5)
    now, moved = model.weight.detach().clone(), model(images)
    with contextlib.suppress(KeyError), ema.in_place():
        torch.testing.assert_close(model.weight.detach(), start)
        assert not torch.allclose(model(images), moved)
        raise KeyError  # an evaluation that fails leaves the training's weights in place too
    torch.testing.assert_close(model.weight.detach(), now, rtol=0, atol=0)
    torch.testing.assert_close(ema.weights["weight"], start, rtol=0, atol=0)


def test_the_saved_average_is_the_models_state_with_its_buffers() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = EMA(model, 0.9)
    average = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight.zero_()
        model[1].running_mean.fill_(7)
    state = ema.model_state()
    assert state.keys() == model.state_dict().keys()
    torch.testing.assert_close(state["0.weight"], average)
    assert state["1.running_mean"].tolist() == [7, 7]
    assert model[0].weight.abs().max() == 0


def test_a_resumed_average_goes_on_as_if_never_stopped() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    whole = EMA(model, 0.99)
    saved = None
    for step in range(20):
        with torch.no_grad():
            model.weight.normal_()
        whole.update()
        if step == 9:
            saved = {"steps": whole.steps, "weights": {k: v.clone() for k, v in whole.weights.items()}}
            resumed = EMA(nn.Linear(3, 2), 0.99)
            resumed.load_state_dict(saved)
            resumed.model = model
        elif step > 9:
            resumed.update()
    assert resumed.steps == whole.steps == 20
    torch.testing.assert_close(resumed.weights, whole.weights, rtol=0, atol=0)


def test_an_average_of_another_model_is_refused() -> None:
    state = EMA(nn.Linear(3, 2), 0.9).state_dict()
    for other in (nn.Linear(3, 4), nn.Sequential(nn.Linear(3, 2))):
        with pytest.raises(InputError, match="of another model"):
            EMA(other, 0.9).load_state_dict(state)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0, float("nan")])
def test_a_decay_that_averages_nothing_is_refused(decay: float) -> None:
    with pytest.raises(InputError, match=r"SOLVER\.EMA_DECAY"):
        TrainSettings("out", 1, 1, ema_decay=decay, words={"ema_decay": "SOLVER.EMA_DECAY"})
