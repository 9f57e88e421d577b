"""One step of the optimizer, from one part of data or several."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from detections import CONFIGS
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from hiera_det.d2.config.load import load_config
from hiera_det.d2.config.training import train_settings
from hiera_det.d2.train.step import Step
from hiera_det.errors import InputError


class Losses(nn.Module):
    """Two losses, each a mean over the batch, as a detector gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        output = self.layer(batch)
        return {"loss_a": output.square().mean(), "loss_b": (output - 1).abs().mean()}


def parts(count: int) -> Iterator[Tensor]:
    """The same data for everybody, in batches of 8 / count."""
    generator = torch.Generator().manual_seed(0)
    while True:
        yield from torch.randn(8, 8, generator=generator).chunk(count)


def run(model: nn.Module, accumulate: int, precision: str = "float32", steps: int = 5) -> EventStorage:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    step = Step(model, parts(accumulate), optimizer, accumulate, precision)
    with EventStorage() as storage:
        for step.iter in range(steps):
            step.run_step()
            storage.step()
    return storage


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_parts_step_as_the_whole_batch(accumulate: int) -> None:
    whole, split = Losses(), Losses()
    split.load_state_dict(whole.state_dict())
    start = whole.layer.weight.detach().clone()
    logged = [run(model, count) for model, count in ((whole, 1), (split, accumulate))]
    torch.testing.assert_close(split.state_dict(), whole.state_dict(), rtol=0, atol=1e-6)
    assert (whole.layer.weight - start).abs().max() > 1e-2
    for name in ("total_loss", "loss_a", "loss_b"):
        values = [[value for value, _ in storage.history(name).values()] for storage in logged]
        assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_bfloat16_computes_in_it_and_keeps_float32_weights() -> None:
    seen: list[torch.dtype] = []
    model = Losses()
    model.layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    run(model, 1, "bfloat16", steps=2)
    assert seen == [torch.bfloat16] * 2
    assert model.layer.weight.dtype == torch.float32


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched() -> None:
    model = Losses()
    with torch.no_grad():
        model.layer.bias.fill_(float("nan"))
    before = model.layer.weight.detach().clone()
    with pytest.raises(InputError, match=r"^iteration 1: not finite: .*loss_a nan"):
        run(model, 2)
    torch.testing.assert_close(model.layer.weight.detach(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("opts", "says"),
    [
        (["SOLVER.AMP.PRECISION", "float8"], "SOLVER.AMP.PRECISION 'float8'"),
        (["SOLVER.AMP.ENABLED", "True", "MODEL.DEVICE", "cpu"], "needs a GPU: on the CPU choose "),
        (["SOLVER.AMP.ENABLED", "True", "MODEL.DEVICE", "cuda", "SOLVER.PARALLEL", "fsdp"], "SOLVER.PARALLEL fsdp"),
    ],
)
def test_a_format_that_cannot_be_trained_in_is_refused(opts: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        train_settings(load_config(str(CONFIGS / "quick_start.yaml"), opts))
