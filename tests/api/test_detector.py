"""A detector trained from Python: the command's weights, a run to work with, mistakes by the arguments' names."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.engine import HookBase

from hiera_det import Callback, InputError, Run, evaluate, open_run, train_detector

Arguments = dict[str, Any]


@pytest.fixture(scope="module")
def run(detection: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training that has ended."""
    return train_detector(**detection, output=tmp_path_factory.mktemp("run") / "out")


def weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["model"]
    return state


def test_the_command_with_the_same_settings_gives_the_same_weights_and_ap(
    run: Run, detection: Arguments, tmp_path: Path
) -> None:
    words = [sys.executable, "-m", "hiera_det", "train", "--config-file", detection["config"]]
    for split in ("train", "val"):
        words += [f"--{split}-json", detection[split][0], f"--{split}-images", detection[split][1]]
    words += ["SOLVER.MAX_ITER", 3, "SOLVER.IMS_PER_BATCH", 2, "DATALOADER.NUM_WORKERS", 0, "SEED", 3]
    words += ["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MAX_SIZE_TRAIN", 128, "INPUT.MIN_SIZE_TEST", 64]
    words += ["INPUT.MAX_SIZE_TEST", 128, "MODEL.DEVICE", "cpu", "OUTPUT_DIR", tmp_path / "out"]
    words += [word for pair in detection["opts"].items() for word in pair]
    done = subprocess.run(
        list(map(str, words)),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert done.returncode == 0, done.stderr
    by_command = open_run(tmp_path / "out")
    here, there = weights(run.last.path), weights(by_command.last.path)
    assert here.keys() == there.keys()
    assert all(torch.equal(here[name], there[name]) for name in here)
    names = [name for name in run.metrics if name.startswith(("bbox", "segm"))]
    assert len(names) > 10
    np.testing.assert_equal([by_command.metrics[n] for n in names], [run.metrics[n] for n in names])
    assert by_command.resume().last.path.name == "model_final.pth"  # what the command began, Python goes on with


def test_a_run_has_metrics_history_and_weights_that_predict(run: Run, detection: Arguments) -> None:
    assert run.task == "detect"
    assert run.metrics["bbox/AP"] >= 0
    assert [line["iteration"] for line in run.history] == [2, 3]
    assert (run.best.path.name, run.last.path.name) == ("model_best.pth", "model_final.pth")
    files = sorted(str(path) for path in Path(detection["val"][1]).iterdir())
    one = run.best.predict(files[0], threshold=0.0)
    assert one.file == files[0]
    assert len(one.instances) > 0
    assert [prediction.file for prediction in run.last.predict(files[::-1])] == files[::-1]
    assert os.fspath(run.last) == str(run.output / "model_final.pth")
    assert open_run(str(run.output)).metrics == run.metrics


def test_each_evaluation_reaches_the_metrics_whatever_its_period(detection: Arguments, tmp_path: Path) -> None:
    opts = {**detection["opts"], "TEST.EVAL_PERIOD": 2}
    run = train_detector(**detection | {"iterations": 5, "opts": opts}, output=tmp_path / "out")
    assert [line["iteration"] for line in run.history if "bbox/AP" in line] == [1, 3, 5]


def test_evaluating_gives_the_metrics_of_the_training(run: Run, detection: Arguments) -> None:
    found = evaluate(run)
    assert found["bbox/AP"] == run.metrics["bbox/AP"]
    np.testing.assert_equal(evaluate(run.last, detection["val"], batch_size=2), found)
    results = run.output / "inference" / "coco_instances_results.json"
    scored = evaluate(results, detection["val"][0])
    assert scored["segm/AP"] == found["segm/AP"]


def test_a_run_goes_on_with_what_is_changed(detection: Arguments, tmp_path: Path) -> None:
    short = train_detector(**detection | {"val": None}, output=tmp_path / "short")
    assert short.resume(iterations=4, num_workers=1).metrics["iteration"] == 3
    assert short.asked["opts"][short.asked["opts"].index("SOLVER.MAX_ITER") + 1] == 4
    with pytest.raises(InputError, match=r"^resume: colour is no argument of train_detector"):
        short.resume(colour="red")
    with pytest.raises(InputError, match=r"no best weights are kept there"):
        _ = short.best


class Listener(Callback):
    """Notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int]] = []

    def on_step(self, iteration: int, metrics: Mapping[str, float]) -> None:
        assert {"total_loss", "lr"} <= set(metrics)
        self.heard.append(("step", iteration))

    def on_evaluation(self, iteration: int, metrics: Mapping[str, float]) -> None:
        assert "bbox/AP" in metrics
        self.heard.append(("evaluation", iteration))

    def on_checkpoint(self, iteration: int, path: str) -> None:
        assert os.path.isfile(path)
        self.heard.append(("checkpoint", iteration))

    def on_end(self, iteration: int) -> None:
        self.heard.append(("end", iteration))


class Hook(HookBase):  # type: ignore[misc]
    """detectron2's."""

    steps = 0

    def after_step(self) -> None:
        self.steps += 1


def test_callbacks_and_detectron2s_hooks_are_called(detection: Arguments, tmp_path: Path) -> None:
    listener, hook = Listener(), Hook()
    keys = detection["opts"] | {"SOLVER.CHECKPOINT_PERIOD": 2}
    train_detector(**detection | {"opts": keys}, output=tmp_path / "out", callbacks=[listener, hook])
    steps = [("step", 1), ("step", 2), ("checkpoint", 2), ("step", 3), ("checkpoint", 3)]
    assert listener.heard == [*steps, ("evaluation", 3), ("end", 3)]
    assert hook.steps == 3


class Interrupt:
    """Sends this process a signal after a step, once."""

    def __init__(self, number: int) -> None:
        self.number = number

    def on_step(self, iteration: int, metrics: Mapping[str, float]) -> None:
        if iteration == 1:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_keyboard_interrupt_after_a_checkpoint(
    number: int, detection: Arguments, run: Run, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt, match=signal.Signals(number).name):
        train_detector(**detection, output=tmp_path / "out", callbacks=[Interrupt(number)])
    stopped = open_run(tmp_path / "out")
    assert stopped.last.path.name == "model_0000000.pth"
    state = weights(stopped.resume().last.path)
    assert all(torch.equal(state[name], tensor) for name, tensor in weights(run.last.path).items())


def test_the_process_is_left_as_it_was_found(detection: Arguments, tmp_path: Path) -> None:
    logger, handler = logging.getLogger("detectron2"), logging.NullHandler()
    logger.addHandler(handler)

    def state() -> list[Any]:
        loggers = [logging.getLogger(name) for name in ("", "hiera_det", "detectron2", "fvcore")]
        handlers = [(list(one.handlers), one.level, one.propagate) for one in loggers]
        signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        generators = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
        others = [os.getcwd(), list(sys.argv), torch.get_num_threads(), dict(os.environ)]
        return [*handlers, *signals, *generators, *others, torch.backends.cudnn.benchmark]

    before = state()
    for name in ("first", "second"):
        train_detector(**detection, output=tmp_path / name)
        assert state() == before
        lines = (tmp_path / name / "log.txt").read_text().splitlines()
        assert sum("Starting training from iteration 0" in line for line in lines) == 1
    with pytest.raises(InputError):
        train_detector(**detection, output=tmp_path / "first")
    assert state() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size 0: give a whole number of at least 1"),
        ({"opts": {"SOLVER.IMS_PER_BATCH": 0}, "batch_size": None}, "SOLVER.IMS_PER_BATCH 0: give a whole number"),
        ({"epochs": 2}, "the arguments: epochs and iterations say the same in two ways"),
        ({"learning_rate": "fast"}, "learning_rate fast: give a number"),
        ({"epochs": 0, "iterations": None}, "epochs 0: give a number above 0"),
        ({"image_size": 0}, "image_size 0: give a whole number of pixels"),
        ({"precision": "float16"}, "precision float16 needs a GPU"),
        ({"precision": "int8"}, "precision 'int8': choose float16 or bfloat16"),
        ({"freeze": 9}, "freeze 9: give a whole number of at least 0 and at most 5"),
        ({"device": "cuda", "num_gpus": 64}, "num_gpus 64, device cuda: this machine has "),
        ({"num_gpus": 0}, "num_gpus 0: give at least 1"),
        ({"config": "mask_rcn_hiera_b"}, "config mask_rcn_hiera_b: no such file; did you mean mask_rcnn_hiera_b?"),
        ({"config": "any.py"}, "config any.py: is a LazyConfig; train it by hiera-det train-lazy"),
        ({"train": None}, "nothing to train on: give train=(JSON, images)"),
        ({"train": "train.json"}, "train 'train.json': give two paths, train=(COCO JSON, folder of its images)"),
        ({"train": ("none.json", "none")}, "none.json: no such JSON file"),
        ({"weights": "none.pth"}, "weights: weights 'none.pth': no such file"),
        ({"resume": True}, "resume=True: no checkpoint in"),
        ({"opts": {"SEED": 4}}, "opts SEED 4: seed sets it too; keep one of them"),
        ({"opts": ["SEED"]}, "opts ['SEED']: give a dict, or keys and values in turn"),
        ({"opts": {"SOLVER.BASE_LRR": 1}}, "SOLVER.BASE_LRR 1: unknown config key SOLVER.BASE_LRR; did you mean"),
        ({"callbacks": [3]}, "callbacks: 3: nothing calls it; give objects with on_step, on_evaluation"),
        ({"best": ""}, ""),
    ],
)
def test_a_mistake_names_the_argument(
    arguments: Arguments, message: str, detection: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if not message:
        assert not (train_detector(**detection | arguments, output="out").output / "model_best.pth").exists()
        return
    with pytest.raises(InputError) as raised:
        train_detector(**detection | arguments, output="out")
    assert str(raised.value).startswith(message)
    assert "--" not in str(raised.value)


def test_a_folder_where_no_training_was_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no training has been there"):
        open_run(tmp_path)


UNGUARDED = """
import os
from hiera_det import evaluate, open_run, train_detector

class Listener:
    def on_end(self, iteration):
        print("ended at", iteration)

run = train_detector(**{arguments!r}, output="out", num_gpus=2, callbacks=[Listener()])
print("AP", run.metrics["bbox/AP"] == evaluate(run, num_gpus=2)["bbox/AP"])
try:
    train_detector(**{arguments!r} | dict(weights={broken!r}), output="other", num_gpus=2)
except ValueError as error:
    print("refused", error)
"""


def test_a_script_without_a_guard_trains_in_two_processes_with_workers(detection: Arguments, tmp_path: Path) -> None:
    data = {split: tuple(map(str, detection[split])) for split in ("train", "val")}
    (tmp_path / "broken.pth").write_bytes(b"PK")
    code = UNGUARDED.format(arguments=detection | data | {"num_workers": 1}, broken="broken.pth")
    (tmp_path / "script.py").write_text(code)
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "leaked" not in done.stderr  # by the processes, of what multiprocessing keeps for them
    assert done.stdout.count("ended at 3") == 1
    assert "AP True" in done.stdout.splitlines()
    assert done.stdout.splitlines()[-1].startswith("refused weight file broken.pth is text")
