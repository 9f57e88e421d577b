"""Classifiers and masked autoencoders trained from Python."""

from __future__ import annotations

import inspect
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from small_trainings import DIMS

from hiera_det import InputError, Run, evaluate, open_run, pretrain_mae, train_classifier, train_detector
from hiera_det.tasks.settings import ClassifierSettings, PretrainSettings

Arguments = dict[str, Any]


@pytest.fixture(scope="module")
def run(classification: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training that has ended."""
    return train_classifier(**classification, output=tmp_path_factory.mktemp("run") / "out")


def same_weights(run: Run, other: Run) -> bool:
    one, two = (torch.load(which.last.path, weights_only=True)["model_state"] for which in (run, other))
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_the_command_with_the_same_settings_gives_the_same_weights(
    run: Run, classification: Arguments, tmp_path: Path
) -> None:
    words = ["train-classifier", "--output", tmp_path / "out", "--embed-dim", 16, "--depths", 1, 1, 1, 1]
    words += ["--train", classification["train"], "--val", classification["val"], "--image-size", 64, "--epochs", 2]
    words += ["--batch-size", 4, "--lr", 1e-3, "--workers", 0, "--device", "cpu"]
    command = [sys.executable, "-m", "hiera_det", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    by_command = open_run(tmp_path / "out")
    assert same_weights(by_command, run)
    assert by_command.metrics["top1"] == run.metrics["top1"]
    assert by_command.resume(epochs=3, learning_rate=2e-3, num_workers=1).metrics["epoch"] == 3


def test_a_run_has_metrics_and_weights_that_classify(run: Run, classification: Arguments) -> None:
    assert run.task == "classify"
    assert run.best.path.name == "model_best.pth"
    found = run.best.predict(classification["val"] / "red" / "0.jpg")
    assert set(found.names) == {"blue", "green", "red"}
    assert evaluate(run) == evaluate(run.best)
    found = evaluate(run.last)
    by_threes = evaluate(run.last, classification["val"], batch_size=3, num_workers=0)
    assert by_threes == pytest.approx(found)
    assert found == evaluate(run.last.path, classification["val"])
    assert found["top1"] == run.metrics["top1"]


def test_a_pretraining_leaves_what_others_start_from(classification: Arguments, tmp_path: Path) -> None:
    heard: list[int] = []

    class Listener:
        def on_step(self, iteration: int, metrics: Mapping[str, float]) -> None:
            heard.append(iteration)

    decoder = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 1, "pictures": 0}
    mae = pretrain_mae(
        *(classification["train"],),
        output=tmp_path / "mae",
        settings=DIMS | decoder,
        callbacks=[Listener()],
        **{"image_size": 64, "epochs": 1, "batch_size": 4, "num_workers": 0, "device": "cpu"},
    )
    assert heard == [1, 2, 3]
    assert mae.metrics["loss"] > 0
    with pytest.raises(InputError, match="predicts nothing"):
        mae.last.predict("any.jpg")
    with pytest.raises(InputError, match="has no metrics"):
        evaluate(mae)
    started = train_classifier(**classification | {"settings": {}}, weights=mae.last, output=tmp_path / "classifier")
    assert started.asked["weights"] == str(mae.last.path)


class Interrupt:
    """Sends this process a signal after a step, once."""

    def on_step(self, iteration: int, metrics: Mapping[str, float]) -> None:
        if iteration == 2:
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_training_goes_on_to_the_same_weights(
    run: Run, classification: Arguments, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt, match="SIGINT"):
        train_classifier(**classification, output=tmp_path / "out", callbacks=[Interrupt()])
    stopped = open_run(tmp_path / "out")
    assert stopped.last.path.name == "checkpoint.pth"
    assert same_weights(stopped.resume(), run)


def test_a_line_is_shown_once_also_where_the_caller_shows_logs(
    classification: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = logging.StreamHandler(sys.stderr)
    for name in ("without", "with"):
        if name == "with":
            logging.root.addHandler(shown)
        try:
            train_classifier(**classification | {"epochs": 1}, output=tmp_path / name)
        finally:
            logging.root.removeHandler(shown)
        assert capsys.readouterr().err.count("data        train 12 images") == 1


def test_a_training_may_run_in_another_thread(run: Run, classification: Arguments, tmp_path: Path) -> None:
    trained: list[Run] = []
    arguments = classification | {"output": tmp_path / "out"}
    thread = threading.Thread(target=lambda: trained.append(train_classifier(**arguments)))
    thread.start()
    thread.join()
    assert same_weights(trained[0], run)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size 0: "),
        ({"learning_rate": -1.0}, "learning_rate -1.0: "),
        ({"num_workers": -1}, "num_workers -1: "),
        ({"ema": 2.0}, "ema 2.0: "),
        ({"device": "tpu"}, "device tpu: choose cuda or cpu"),
        ({"num_gpus": 0}, "num_gpus 0: "),
        ({"train": "none"}, "none: no such folder"),
        ({"settings": {"lr": 1.0}}, "settings lr: no such setting; give learning_rate="),
        ({"settings": {"colour": 1}}, "settings colour: no such setting; there are accumulate, "),
        ({"settings": {"epochs": 1}}, "settings epochs 1: the argument epochs sets it too"),
        ({"allow_changed": ["epochs"]}, "allow_changed ('epochs',): is for resume, which is not given"),
        ({"resume": True}, "resume=True: there is no checkpoint in"),
        ({"callbacks": [Run]}, "callbacks: "),
    ],
)
def test_a_mistake_names_the_argument(
    arguments: Arguments, message: str, classification: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as raised:
        train_classifier(**classification | arguments, output="out")
    assert str(raised.value).startswith(message)


def test_a_changed_setting_is_named_by_its_argument(run: Run, classification: Arguments) -> None:
    changed = classification | {"learning_rate": 0.5, "resume": True, "output": run.output}
    with pytest.raises(
        InputError, match=r"was made with learning_rate 0.001, now it is 0.5; .* allow_changed learning"
    ):
        train_classifier(**changed)


def test_what_a_checkpoint_is_compared_in_is_known_by_the_settings(run: Run) -> None:
    saved = torch.load(run.output / "checkpoint.pth", weights_only=True)["settings"]
    names = {name.replace("learning_rate", "lr").replace("ema", "ema_decay") for name in saved}
    assert set(ClassifierSettings.compared) <= names
    assert {"mask_ratio", "decoder_depth", *ClassifierSettings.compared[:14]} <= set(PretrainSettings.compared)


def test_all_trainings_have_the_same_words_for_the_same() -> None:
    detector, classifier, mae = (
        set(inspect.signature(f).parameters) for f in (train_detector, train_classifier, pretrain_mae)
    )
    assert classifier - detector == {"size", "settings"}
    assert detector - classifier == {"config", "iterations", "freeze", "opts", "data", "split"}
    assert mae - classifier == {"images", "videos", "mask_ratio"}
