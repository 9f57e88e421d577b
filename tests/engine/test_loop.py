"""Training as a whole: stopped and resumed equals never stopped, parts equal a whole batch, bad losses stop it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hiera_det.engine.checkpoint import check_settings, checkpoint_to_resume, read_checkpoint
from hiera_det.engine.events import read_metrics
from hiera_det.engine.loop import Loop, Plan
from hiera_det.engine.optimizer import build_adamw
from hiera_det.engine.order import Batch, EpochOrder, Samples
from hiera_det.errors import InputError
from hiera_det.zoo import hiera_classifier

FILES = [str(number) for number in range(8)]


def read(path: str) -> Tensor:
    """An image of the file's own, with a little noise that is new each time."""
    own = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(int(path)))
    return own + 0.1 * torch.randn(3, 64, 64)


def read_plainly(path: str) -> Tensor:
    return torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(int(path)))


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(model(batch.inputs), batch.labels)


def build(out: Path, *, loss: Any = cross_entropy, reader: Any = read, drop_path: float = 0.5, **plan: Any) -> Loop:
    out.mkdir(exist_ok=True)
    torch.manual_seed(0)
    model = hiera_classifier(
        "tiny", 2, embed_dim=16, depths=(1, 1, 1, 1), pretrain_size=64, drop_path_rate=drop_path, dropout=0.0
    )
    plan = {"epochs": 3, "warmup_epochs": 1, "lr": 1e-3, "log_period": 3} | plan
    settings = Plan(str(out), **plan)
    samples = Samples(FILES, reader, [int(file) % 2 for file in FILES])
    order = EpochOrder(len(FILES), 4, settings.accumulate, 0)
    optimizer = build_adamw(model, (0.9, 0.95), 0.05, 0.65)
    return Loop(model, optimizer, samples, order, loss, settings, {"--lr": settings.lr}, {"classes": ["a", "b"]})


def no_evaluation(epoch: int) -> None:
    """Nothing after an epoch."""


def assert_equal_models(ours: Loop, theirs: Loop) -> None:
    for (name, a), b in zip(ours.model.state_dict().items(), theirs.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_training_that_was_stopped_and_resumed_equals_one_that_was_not(at: int, tmp_path: Path) -> None:
    whole = build(tmp_path / "whole")
    assert whole.run(no_evaluation) == 0

    calls = 0

    def interrupted(model: nn.Module, batch: Batch) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return cross_entropy(model, batch)

    out = tmp_path / "stopped"
    epochs: list[int] = []
    first = build(out, loss=interrupted)
    assert first.run(epochs.append) == signal.SIGTERM
    assert first.iteration == at
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    second = build(out)
    assert read_checkpoint(str(out / "checkpoint.pth"))["classes"] == ["a", "b"]
    second.resume(str(out / "checkpoint.pth"))
    assert second.run(epochs.append) == 0
    assert epochs == [1, 2, 3]
    assert_equal_models(whole, second)
    assert (out / "metrics.json").read_text() == (tmp_path / "whole" / "metrics.json").read_text()
    assert (out / "last_checkpoint").read_text() == "checkpoint.pth"


def test_a_signal_at_the_end_of_an_epoch_does_not_lose_its_evaluation(tmp_path: Path) -> None:
    loop = build(tmp_path)
    epochs: list[int] = []

    def evaluate_and_be_stopped(epoch: int) -> None:
        epochs.append(epoch)
        os.kill(os.getpid(), signal.SIGTERM)

    assert loop.run(evaluate_and_be_stopped) == signal.SIGTERM
    assert epochs == [1]
    assert loop.iteration == 3  # the signal came after the epoch's last iteration, and is seen after the next


def test_lines_of_iterations_that_come_again_are_taken_out_of_the_metrics(tmp_path: Path) -> None:
    def lost(epoch: int) -> None:
        if epoch == 3:
            raise KeyboardInterrupt  # before the next checkpoint, as where a machine goes down

    loop = build(tmp_path, checkpoint_epochs=2, epochs=4)
    with pytest.raises(KeyboardInterrupt):
        loop.run(lost)
    assert [line["iteration"] for line in read_metrics(tmp_path / "metrics.json")] == [2, 3, 4, 6]
    with open(tmp_path / "metrics.json", "a") as file:
        file.write('{"iteration": 9, "cut of')
    again = build(tmp_path, checkpoint_epochs=2, epochs=4)
    again.resume(str(tmp_path / "checkpoint.pth"))
    again.run(no_evaluation)
    assert [line["iteration"] for line in read_metrics(tmp_path / "metrics.json")] == [2, 3, 4, 6, 8]


def test_parts_of_a_batch_give_the_gradient_of_the_whole(tmp_path: Path) -> None:
    options: dict[str, Any] = {"reader": read_plainly, "drop_path": 0.0, "epochs": 1}
    whole, parts = build(tmp_path / "a", **options), build(tmp_path / "b", accumulate=2, **options)
    for loop in (whole, parts):
        loop.run(no_evaluation)
    ours, theirs = (read_metrics(tmp_path / name / "metrics.json") for name in ("a", "b"))
    assert [line["iteration"] for line in ours] == [2]
    assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], rel=1e-4)


def test_a_loss_that_is_not_finite_stops_with_iteration_and_images(tmp_path: Path) -> None:
    def poisoned(path: str) -> Tensor:
        return read(path) * (float("nan") if path == "5" else 1)

    with pytest.raises(InputError) as refused:
        build(tmp_path, reader=poisoned).run(no_evaluation)
    line = str(refused.value)
    assert line.startswith(("iteration 1: the loss is nan on ", "iteration 2: the loss is nan on "))
    assert "5" in line.split(" on ")[1].split(";")[0].split(", ")
    assert "\n" not in line


def test_bfloat16_trains_too_and_keeps_float32_weights(tmp_path: Path) -> None:
    loop = build(tmp_path, precision="bfloat16", epochs=1)
    before = loop.model.blocks[0].attn.qkv.weight.detach().clone()
    loop.run(no_evaluation)
    after = loop.model.blocks[0].attn.qkv.weight.detach()
    assert after.dtype == torch.float32
    assert not torch.equal(before, after)


def test_gradients_are_clipped_to_a_norm(tmp_path: Path) -> None:
    norms: list[float] = []
    loop = build(tmp_path, epochs=1, clip_norm=1e-3)
    step = loop.optimizer.register_step_pre_hook(
        lambda *_: norms.append(float(torch.stack([p.grad.norm() for p in loop.model.parameters()]).norm()))
    )
    loop.run(no_evaluation)
    step.remove()
    assert norms == pytest.approx([1e-3] * 2, rel=1e-2)


def test_resuming_needs_a_checkpoint_and_a_fresh_start_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = str(tmp_path)
    assert checkpoint_to_resume(out, False, False) == ""
    assert checkpoint_to_resume(out, False, True) == ""
    with pytest.raises(InputError, match=r"--resume: there is no checkpoint\.pth in "):
        checkpoint_to_resume(out, True, False)
    build(tmp_path, epochs=1).run(no_evaluation)
    path = checkpoint_to_resume(out, False, True)
    assert path == checkpoint_to_resume(out, True, False) == str(tmp_path / "checkpoint.pth")
    with pytest.raises(InputError, match="a training is there already; give --resume"):
        checkpoint_to_resume(out, False, False)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")  # torchrun, after it has lost a process
    assert checkpoint_to_resume(out, False, False) == path


def test_other_settings_and_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    build(tmp_path, epochs=1).run(no_evaluation)
    path = tmp_path / "checkpoint.pth"
    saved = read_checkpoint(str(path))["settings"]
    check_settings(str(path), saved, {"--lr": 1e-3})
    with pytest.raises(InputError, match=r"was made with --lr 0.001, now it is 0.1; resume with the same"):
        check_settings(str(path), saved, {"--lr": 0.1})
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="is truncated"):
        read_checkpoint(str(path))
    torch.save({"model_state": {}}, path)
    with pytest.raises(InputError, match="is no checkpoint of a training"):
        read_checkpoint(str(path))
