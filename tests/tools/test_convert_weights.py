"""The converter as users run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hiera_det import build_hiera

TOOL = Path(__file__).parents[2] / "tools" / "convert_weights.py"


def run(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TOOL, *map(str, args)], capture_output=True, text=True, check=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    state = build_hiera("tiny").state_dict()
    torch.save({"model_state": state | {"mask_token": torch.zeros(1, 1, 512)}}, tmp_path / "anything.xyz")
    return tmp_path / "anything.xyz"


def test_inspect_says_what_a_file_is(file: Path, run_here: Any) -> None:
    result = run_here(TOOL, "--inspect", file)
    assert result.returncode == 0
    lines = dict(line.split(":", 1) for line in result.stdout.splitlines())
    assert lines["model"].strip() == "hiera_tiny: MAE pretraining, with its decoder"
    assert lines["layout"].strip() == 'the authors\' Hiera, under "model_state"'
    assert "153 tensors, 27.1 M parameters, embed dim 96, depths (1, 2, 7, 2), 3 input" in lines["trunk"]
    assert lines["positions"].strip() == "pos_embed 56x56"
    assert lines["heads"].strip() == "mask_token 1"


def test_a_conversion_prints_what_was_written_and_dropped(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "timm.safetensors"
    result = run(file, out, "--to", "timm")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == str(out)
    assert "153 tensors in timm's Hiera layout; 1 have no place there: mask_token" in result.stdout
    assert len(load_file(out)) == 153


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("FILE",), "give IN and OUT to convert, or --inspect IN alone"),
        (("FILE", "OUT", "--inspect"), "give IN and OUT to convert, or --inspect IN alone"),
        (("FILE", "FILE"), "name a file that ends in"),
        (("missing.pth", "--inspect"), "no such file"),
        (("TOOL", "--inspect"), "is text, not weights"),
    ],
)
def test_mistakes_end_in_one_line(args: tuple[str, ...], says: str, file: Path, tmp_path: Path, run_here: Any) -> None:
    words = {"FILE": file, "OUT": tmp_path / "out.pth", "TOOL": TOOL}
    before = sorted(tmp_path.iterdir())
    result = run_here(TOOL, *(words.get(arg, arg) for arg in args))
    assert result.returncode == 2
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before
