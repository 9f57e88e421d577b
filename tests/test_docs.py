"""The examples of the documents run, and its tables name what there is."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest
import torch
import transformers

FAMILY = Path(__file__).parents[1] / "docs" / "family.md"


def test_the_examples_of_the_family_run_and_give_the_shapes_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", FAMILY.read_text(), re.DOTALL)
    assert len(blocks) == 8
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/family.md", "exec"), names)  # the next block goes on where this one ended
        if "logits" in names and "mine" not in names:
            assert names["logits"].shape == (2, 1000)
            assert names["features"].shape == (2, 768)
    assert torch.isfinite(names["loss"])
    assert names["units"]["stage1"].shape == (2, 25, 96, 8, 8)
    assert names["units"]["stage4"].shape == (2, 25, 768, 1, 1)
    assert names["inside"].hidden_states[0].shape == (2, 96, 56, 56)
    assert names["inside"].attentions[0].shape == (2, 49, 1, 64, 64)
    assert {name: tuple(map_.shape) for name, map_ in names["maps"].items()} == {
        "stage2": (1, 192, 8, 8),
        "stage4": (1, 768, 2, 2),
    }
    assert names["trunk"].frozen == ("stem", "positions", "stage1", "stage2")
    pretrained, classifier = torch.load("mine.pth"), names["classifier"].state_dict()
    assert all(torch.equal(classifier[name], tensor) for name, tensor in pretrained.items() if name in classifier)


def test_the_table_has_every_option_of_transformers_hiera() -> None:
    named = {name for row in re.findall(r"^\| (.*?) \|", FAMILY.read_text(), re.MULTILINE) for name in row.split("`")}
    options = {name.removeprefix("_") for name in transformers.HieraConfig.__dataclass_fields__}
    inherited = {name.removeprefix("_") for name in transformers.PretrainedConfig.__dataclass_fields__}
    options -= inherited - {"out_features", "out_indices"}
    assert {"embed_dim", "decoder_depth", "out_indices"} <= options
    assert options <= named, options - named


@pytest.mark.parametrize("module", ["hiera", "classifier", "mae"])
def test_the_examples_of_the_docstrings_are_true(module: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(f"hiera_det.modeling.{module}"))
    assert tried > 1
    assert not failed
