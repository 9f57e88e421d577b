"""One step of the optimizer (hiera_det/engine/step.py)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hiera_det.engine.step import Step
from hiera_det.errors import InputError


def build(**options: Any) -> Step:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def losses(model: nn.Module, part: Tensor) -> dict[str, Tensor]:
        output = model(part).square().mean()
        return {"square": output, "half": output / 2}

    return Step(model, optimizer, losses, **options)


def weights(step: Step) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in step.model.parameters()])


def test_parts_give_the_losses_and_the_step_of_the_whole() -> None:
    images = torch.randn(6, 4)
    whole, parts = build(), build(accumulate=3)
    ours, theirs = whole([images]), parts(images.chunk(3))
    assert ours.keys() == theirs.keys() == {"square", "half"}
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])
        assert not ours[name].requires_grad
    torch.testing.assert_close(weights(whole), weights(parts))


def test_gradients_are_clipped_together() -> None:
    step = build(clip_norm=1e-3)
    before = weights(step)
    step([torch.randn(6, 4)])
    assert float((weights(step) - before).norm()) == pytest.approx(0.1 * 1e-3, rel=1e-3)


def test_bfloat16_computes_in_it_and_keeps_float32_weights() -> None:
    seen: list[torch.dtype] = []
    step = build(precision="bfloat16")
    step.model.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    step([torch.randn(6, 4)])
    assert seen == [torch.bfloat16]
    assert weights(step).dtype == torch.float32


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_takes_no_step_and_says_where(bad: float) -> None:
    step = build(accumulate=2, files=lambda part: [f"{len(part)}.jpg"])
    before = weights(step)
    with pytest.raises(InputError) as refused:
        step([torch.randn(3, 4), torch.full((2, 4), bad)], 7)
    assert torch.equal(weights(step), before)
    line = str(refused.value)
    assert line.startswith("iteration 7: not finite: square ")
    assert "learning rate 0.1, float32, on 3.jpg, 2.jpg; lower the learning rate or clip gradients" in line


def test_a_gradient_counts_as_well_as_a_loss() -> None:
    step = build()
    step.model.weight.register_hook(lambda grad: grad * math.nan)  # type: ignore[union-attr]
    before = weights(step)
    with pytest.raises(InputError, match="gradient norm nan"):
        step([torch.randn(3, 4)])
    assert torch.equal(weights(step), before)


def test_so_many_in_a_row_are_left_out_and_the_count_starts_anew_after_a_good_one() -> None:
    step = build(skip_nonfinite=2)
    before = weights(step)
    good, bad = torch.randn(3, 4), torch.full((3, 4), math.nan)
    step([bad]), step([bad])
    assert torch.equal(weights(step), before)
    step([good])
    assert not torch.equal(weights(step), before)
    step([bad]), step([bad])
    with pytest.raises(InputError):
        step([bad])


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_model_that_itself_refuses_what_is_not_finite_is_left_out_likewise(precision: str) -> None:
    step = build(skip_nonfinite=2, accumulate=2, precision=precision)

    def refuse(model: nn.Module, args: tuple[Tensor]) -> None:
        if not torch.isfinite(args[0]).all():
            raise FloatingPointError("as detectron2's RPN does")

    step.model.register_forward_pre_hook(refuse)
    before = weights(step)
    good, bad = torch.randn(3, 4), torch.full((3, 4), math.nan)
    step([good, bad]), step([bad, good])
    assert torch.equal(weights(step), before)
    with pytest.raises(InputError, match=r"not finite: the model's predictions; .*as detectron2's RPN does"):
        step([good, bad])
    step.skipped = 0
    step([good, good])
    assert not torch.equal(weights(step), before)


def test_float16_leaves_overflow_to_its_scaler_and_refuses_a_loss_that_is_not_finite() -> None:
    step = build(precision="float16", skip_nonfinite=1)
    before, scale = weights(step), step.scaler.get_scale()
    step([torch.full((3, 4), 300.0)])  # its scaled gradients are beyond 65504, its loss is not
    assert torch.equal(weights(step), before)
    assert step.scaler.get_scale() < scale
    assert step.skipped == 0
    step([torch.full((3, 4), math.nan)])
    assert step.skipped == 1
    for _ in range(8):
        step([torch.randn(3, 4)])
    assert not torch.equal(weights(step), before)
    assert torch.isfinite(weights(step)).all()
    step([torch.full((3, 4), math.nan)])
    with pytest.raises(InputError, match="not finite: square nan"):
        step([torch.full((3, 4), math.nan)])


def test_gradients_that_no_factor_of_float16_helps_are_refused() -> None:
    step = build(precision="float16")
    step.model.weight.register_hook(lambda grad: grad * math.nan)  # type: ignore[union-attr]
    for _ in range(16):  # as often as it halves 65536
        step([torch.randn(3, 4)])
    with pytest.raises(InputError, match="gradient norm nan"):
        step([torch.randn(3, 4)])
