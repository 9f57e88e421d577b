"""A training in a notebook: progress shows below the cell, a mistake is caught, and the kernel lives on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

TRAIN = """
from hiera_det import InputError, train_detector

arguments = {arguments!r}

class Watch:
    def on_end(self, iteration):
        print("ended at", iteration)

run = train_detector(**arguments, output="out", callbacks=[Watch()])
"""
CAUGHT = """
try:
    train_detector(**arguments | dict(batch_size=0), output="other")
except InputError as error:
    print("caught:", error)
"""
AGAIN = """
second = train_detector(**arguments, output="second")
print("same:", second.metrics["bbox/AP"] == run.metrics["bbox/AP"])
"""
TWO = """
print("two:", train_detector(**arguments, output="two", num_gpus=2, callbacks=[Watch()]).metrics["iteration"])
"""
STOPPED = """
import os, signal

class Interrupt:
    def on_step(self, iteration, metrics):
        if iteration == 1:
            os.kill(os.getpid(), signal.SIGINT)

try:
    train_detector(**arguments, output="stopped", callbacks=[Interrupt()])
except KeyboardInterrupt as stop:
    print("stopped:", stop)
from hiera_det import open_run
print("at", open_run("stopped").resume().metrics["iteration"])
"""


def printed(cell: Any) -> str:
    """What a cell shows as text."""
    return "".join(output.get("text", "") for output in cell.outputs)


def test_a_notebook_trains_shows_progress_and_catches_mistakes(
    detection: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # with which ipykernel shows nothing of other processes
    data = {split: tuple(map(str, detection[split])) for split in ("train", "val")}
    arguments = json.loads(json.dumps(detection | data))
    cells = [TRAIN.format(arguments=arguments), CAUGHT, AGAIN, TWO, STOPPED]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    train, caught, again, two, stopped = map(printed, notebook.cells)
    assert "iteration 1/3" in train
    assert "ended at 3" in train
    assert train.count("schedule    ") == 1
    assert "caught: batch_size 0: give a whole number of at least 1" in caught
    assert again.count("schedule    ") == 1  # handlers do not pile up
    assert "same: True" in again
    assert "ended at 3" in two  # said by another process
    assert "two: 3" in two
    assert "stopped: stopped by SIGINT" in stopped
    assert "at 3" in stopped
