"""The loop of the plain tasks (hiera_det/engine/loop.py); whole trainings are stopped in tests/tasks."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from hiera_det.engine.events import read_metrics
from hiera_det.engine.loader import Refused, Seeded, keyed_loader
from hiera_det.engine.loop import Loop, Task
from hiera_det.engine.optimizer import build_adamw
from hiera_det.engine.order import EpochOrder
from hiera_det.engine.settings import TrainSettings
from hiera_det.errors import InputError
from hiera_det.weights.sources import read_weight_file
from hiera_det.zoo import hiera_classifier

IMAGES = 8


class Part(NamedTuple):
    images: Tensor
    labels: Tensor
    files: list[str]

    def to(self, device: torch.device) -> Part:
        return self


def read(number: int) -> tuple[Tensor, int, str]:
    """An image of the number's own, with a little noise that is new each time."""
    own = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(number))
    return own + 0.1 * torch.randn(3, 64, 64), number % 2, f"{number}.jpg"


def collate(samples: list[Any]) -> Any:
    if any(isinstance(sample, Refused) for sample in samples):
        return samples[0]
    images, labels, files = zip(*samples, strict=True)
    return Part(torch.stack(images), torch.tensor(labels), list(files))


def cross_entropy(model: nn.Module, part: Part) -> Tensor:
    return nn.functional.cross_entropy(model(part.images), part.labels)


def build(out: Path, *, epochs: int = 3, loss: Any = cross_entropy, allowed: Any = (), **options: Any) -> Loop:
    """A loop of two steps an epoch."""
    out.mkdir(exist_ok=True)
    torch.manual_seed(0)
    evaluate = options.pop("evaluate", lambda epoch: {})
    evaluate_epochs = options.pop("evaluate_epochs", 1)
    model = hiera_classifier("tiny", 2, embed_dim=16, depths=(1, 1, 1, 1), pretrain_size=64, drop_path_rate=0.5)
    options = {"log_period": 3, "checkpoint_period": 2} | options
    settings = TrainSettings(str(out), iterations=2 * epochs, batch_size=4, **options)
    order = EpochOrder(IMAGES, 4, settings.accumulate, 0)
    task = Task(
        model,
        lambda _: build_adamw(model, (0.9, 0.95), 0.05, 0.65),
        keyed_loader(Seeded(range(IMAGES), read), order, settings.workers, False, collate),
        order,
        loss,
        lr=1e-3,
        warmup=2,
        unchanged={"--lr": 1e-3, "--epochs": epochs},
        extra={"classes": ["a", "b"]},
        evaluate=evaluate,
        evaluate_epochs=evaluate_epochs,
        allowed=allowed,
    )
    return Loop(task, settings)


def resumed(out: Path, **options: Any) -> Loop:
    loop = build(out, **options)
    loop.resume()
    return loop


def stopping(call: int, number: int = signal.SIGTERM) -> Any:
    """A loss whose so manieth call is when the signal comes."""
    calls = 0

    def loss(model: nn.Module, part: Part) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), number)
        return cross_entropy(model, part)

    return loss


@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_training_that_was_stopped_and_resumed_equals_one_that_was_not(at: int, tmp_path: Path) -> None:
    whole = build(tmp_path / "whole")
    assert whole.run() == 0
    out, epochs = tmp_path / "stopped", []

    def evaluate(epoch: int) -> dict[str, float]:
        epochs.append(epoch)
        return {}

    first = build(out, loss=stopping(at), evaluate=evaluate)
    assert first.run() == signal.SIGTERM
    assert first.iteration == at
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert read_weight_file(out / "checkpoint.pth")["classes"] == ["a", "b"]
    second = resumed(out, evaluate=evaluate)
    assert second.run() == 0
    assert epochs == [1, 2, 3]
    for (name, a), b in zip(whole.model.state_dict().items(), second.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert (out / "metrics.json").read_text() == (tmp_path / "whole" / "metrics.json").read_text()
    assert (out / "last_checkpoint").read_text() == "checkpoint.pth"


def test_an_evaluation_that_a_signal_ends_is_made_when_the_training_goes_on(tmp_path: Path) -> None:
    def stopped(epoch: int) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        loop.stop.settle(loop.device)
        raise AssertionError("was not stopped")

    loop = build(tmp_path, evaluate=stopped)
    assert loop.run() == signal.SIGTERM
    assert loop.iteration == 2
    epochs: list[int] = []
    again = resumed(tmp_path, evaluate=lambda epoch: epochs.append(epoch) or {"top1": epoch / 4})
    assert again.run() == 0
    assert epochs == [1, 2, 3]
    lines = read_metrics(tmp_path / "metrics.json")
    assert [(line["iteration"], line["top1"]) for line in lines if "top1" in line] == [(2, 0.25), (4, 0.5), (6, 0.75)]


def test_lines_of_iterations_that_come_again_are_taken_out_of_the_metrics(tmp_path: Path) -> None:
    def lost(epoch: int) -> dict[str, float]:
        if epoch == 3:
            raise KeyboardInterrupt  # before the next checkpoint, as where a machine goes down
        return {}

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, checkpoint_period=4, epochs=4, evaluate=lost).run()
    assert [line["iteration"] for line in read_metrics(tmp_path / "metrics.json")] == [2, 3, 4, 6]
    with open(tmp_path / "metrics.json", "a") as file:
        file.write('{"iteration": 9, "cut of')
    resumed(tmp_path, checkpoint_period=4, epochs=4).run()
    assert [line["iteration"] for line in read_metrics(tmp_path / "metrics.json")] == [2, 3, 4, 6, 8]


def test_every_so_many_epochs_are_evaluated_and_the_last(tmp_path: Path) -> None:
    epochs: list[int] = []
    build(tmp_path, epochs=5, evaluate_epochs=2, evaluate=lambda epoch: epochs.append(epoch) or {}).run()
    assert epochs == [2, 4, 5]


def test_the_best_weights_are_kept_also_over_a_resume(tmp_path: Path) -> None:
    accuracies = {1: 0.5, 2: 0.9, 3: 0.8, 4: 0.95}
    options: dict[str, Any] = {"epochs": 4, "best": "top1", "evaluate": lambda epoch: {"top1": accuracies[epoch]}}
    build(tmp_path, loss=stopping(5), **options).run()
    best = read_weight_file(tmp_path / "model_best.pth")["model_state"]
    loop = resumed(tmp_path, **options)
    assert (loop.best.value, loop.best.iteration) == (0.9, 4)
    accuracies[4] = 0.7
    assert loop.run() == 0
    kept = read_weight_file(tmp_path / "model_best.pth")
    assert kept["classes"] == ["a", "b"]
    assert all(torch.equal(tensor, kept["model_state"][name]) for name, tensor in best.items())


def test_averaged_weights_are_evaluated_beside_the_others_and_may_be_the_best(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def evaluate(epoch: int) -> dict[str, float]:
        seen.append(loop.model.head.projection.bias.detach().clone())
        return {"top1": 0.5}

    loop = build(tmp_path, epochs=1, ema_decay=0.9, best="ema/top1", evaluate=evaluate)
    assert loop.run() == 0
    plain, averaged = seen
    assert not torch.equal(plain, averaged)
    line = read_metrics(tmp_path / "metrics.json")[-1]
    assert line == {"iteration": 2, "epoch": 1.0, "top1": 0.5, "ema/top1": 0.5}
    best = read_weight_file(tmp_path / "model_best.pth")["model_state"]
    assert torch.equal(best["head.projection.bias"], averaged)
    assert torch.equal(loop.model.head.projection.bias, plain)


def test_the_checkpoints_of_the_version_before_are_gone_on_from(tmp_path: Path) -> None:
    whole = build(tmp_path / "whole")
    assert whole.run() == 0
    out = tmp_path / "old"
    build(out, loss=stopping(3)).run()
    state = read_weight_file(out / "checkpoint.pth")
    names = ("model_state", "optimizer", "iteration", "window", "settings", "classes")
    for path in out.iterdir():
        path.unlink() if path.suffix == ".pth" else None
    torch.save({name: state[name] for name in names}, out / "checkpoint.pth")
    loop = resumed(out)
    assert loop.iteration == 3
    assert loop.run() == 0
    for (name, a), b in zip(whole.model.state_dict().items(), loop.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_loss_that_is_not_finite_stops_with_iteration_and_images_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    def poisoned(model: nn.Module, part: Part) -> Tensor:
        return cross_entropy(model, part) * (float("nan") if "5.jpg" in part.files else 1)

    with pytest.raises(InputError, match=r"^iteration [12]: not finite: loss nan; .+ on .*5\.jpg"):
        build(tmp_path, loss=poisoned).run()
    assert not list(tmp_path.glob("*.pth"))


def test_precision_clipping_and_accumulation_reach_the_step(tmp_path: Path) -> None:
    loop = build(tmp_path, epochs=1, precision="bfloat16", clip_norm=1e-3, accumulate=2)
    norms: list[float] = []
    loop.optimizer.register_step_pre_hook(
        lambda *_: norms.append(float(torch.stack([p.grad.norm() for p in loop.model.parameters()]).norm()))
    )
    assert loop.run() == 0
    assert norms == pytest.approx([1e-3] * 2, rel=1e-2)
    assert (loop.step.precision, loop.step.accumulate) == ("bfloat16", 2)


OTHER_STATE = {"step": torch.tensor(1.0), "exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)}
#: What becomes of a checkpoint, and what is said of it.
DAMAGES = {
    "iteration": (lambda state: state | {"iteration": 10**9}, "is at iteration 1000000000, which no training is at"),
    "later": (lambda state: state | {"iteration": 7}, "is at iteration 7 of 6"),
    "settings": (lambda state: state | {"settings": [1]}, "is no checkpoint of a training; the file is damaged"),
    "no optimizer": (lambda state: {k: v for k, v in state.items() if k != "optimizer"}, "(no optimizer)"),
    "empty optimizer": (lambda state: state | {"optimizer": {}}, "does not fit this training"),
    "fresh optimizer": (
        lambda state: state | {"optimizer": state["optimizer"] | {"state": {}}},
        "does not fit this training (the optimizer has no state)",
    ),
    "other optimizer": (
        lambda state: state | {"optimizer": state["optimizer"] | {"state": {0: OTHER_STATE}}},
        "does not fit this training (the optimizer's state is of other parameters)",
    ),
    "window": (lambda state: state | {"window": ["x"]}, "does not fit this training"),
    "other model": (
        lambda state: state | {"model_state": state["model_state"] | {"norm.weight": torch.zeros(2)}},
        "does not fit this training",
    ),
    "no tensor": (lambda state: state | {"model_state": {"norm.weight": "x"}}, "does not fit this training"),
    "nan": (
        lambda state: state | {"model_state": state["model_state"] | {"norm.weight": torch.full((128,), torch.nan)}},
        "has NaN or infinite values in model_state.norm.weight: the training had diverged",
    ),
    "lr": (lambda state: state | {"settings": {"--lr": 0.1}}, "was made with --lr 0.1, now it is 0.001"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_checkpoints_that_do_not_fit_are_one_line(damage: str, tmp_path: Path) -> None:
    build(tmp_path, loss=stopping(1)).run()
    path = tmp_path / "checkpoint.pth"
    change, says = DAMAGES[damage]
    torch.save(change(read_weight_file(path)), tmp_path / "changed")  # the tensors are read from the file as needed
    (tmp_path / "changed").replace(path)
    with pytest.raises(InputError) as refused:
        resumed(tmp_path)
    assert says in str(refused.value)
    assert "checkpoint.pth" in str(refused.value)


def test_what_may_change_does(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    build(tmp_path).run()
    with pytest.raises(InputError, match="was made with --epochs 3, now it is 4"):
        resumed(tmp_path, epochs=4)
    with caplog.at_level(logging.WARNING):
        loop = resumed(tmp_path, epochs=4, allowed=["epochs"])
    assert "--epochs was 3 and is now 4: from here on it is another training" in caplog.messages
    assert loop.run() == 0
    assert loop.iteration == 8


def test_a_disk_without_room_for_checkpoints_is_said_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = build(tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(InputError, match="the disk is full: it needs"):
        loop.run()
    assert loop.iteration == 0


def test_a_compiled_model_is_the_one_that_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[tuple[nn.Module, dict[str, Any]]] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **options: compiled.append((module, options)))
    loop = build(tmp_path, epochs=1, compile=True)
    assert compiled == [(loop.model, {"dynamic": True})]
    assert loop.run() == 0


def test_a_training_ends_where_patience_with_the_best_does_and_stays_ended(tmp_path: Path) -> None:
    epochs: list[int] = []

    def evaluate(epoch: int) -> dict[str, float]:
        epochs.append(epoch)
        return {"top1": 0.5}

    options: dict[str, Any] = {"epochs": 9, "best": "top1", "patience": 2, "evaluate": evaluate}
    assert build(tmp_path, **options).run() == 0
    assert resumed(tmp_path, **options).run() == 0
    assert epochs == [1, 2, 3]
    assert resumed(tmp_path, **options | {"patience": 3}).run() == 0
    assert epochs == [1, 2, 3, 4]


def test_the_clock_saves_within_an_epoch(tmp_path: Path) -> None:
    saved: list[int] = []
    loop = build(tmp_path, epochs=1, checkpoint_minutes=1e-9)
    loop.callbacks.on_checkpoint = lambda iteration, path: saved.append(iteration)  # type: ignore[method-assign]
    loop.run()
    assert saved == [1, 2]
