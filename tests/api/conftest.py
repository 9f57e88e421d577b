"""Shared by the tests of the Python doors: small data, and arguments of trainings that take a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from media import write_class_folders
from small_trainings import DIMS, SMALL

from hiera_det.data.shapes import write_shapes_dataset


@pytest.fixture(scope="session")
def detection(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Arguments of a detector's training on the built-in shapes, but for the output folder."""
    data = write_shapes_dataset(tmp_path_factory.mktemp("shapes"), 8, 4, 64)
    return {
        "config": "quick_start",
        "train": (data.train_json, data.train_images),
        "val": (data.val_json, data.val_images),
        **{"iterations": 3, "batch_size": 2, "image_size": 64, "num_workers": 0, "seed": 3, "device": "cpu"},
        "opts": SMALL,
    }


@pytest.fixture(scope="session")
def classification(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same of a classifier."""
    root = tmp_path_factory.mktemp("classes")
    write_class_folders(root / "train", 4)
    write_class_folders(root / "val", 3)
    places: dict[str, Path] = {"train": root / "train", "val": root / "val"}
    steps = {"image_size": 64, "epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "num_workers": 0, "device": "cpu"}
    return {**places, **steps, "settings": DIMS}
