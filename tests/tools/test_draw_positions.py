"""The picture of position embeddings, as users ask for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hiera_det import build_hiera

TOOL = Path(__file__).parents[2] / "tools" / "draw_positions.py"


@pytest.mark.parametrize("weights", [False, True])
def test_the_picture_is_drawn_and_its_path_printed_last(weights: bool, tmp_path: Path, run_here: Any) -> None:
    options: list[object] = []
    if weights:
        torch.save(build_hiera("tiny", embed_dim=16, depths=(1, 1, 1, 1)).state_dict(), tmp_path / "trunk.pth")
        options = ["--weights", tmp_path / "trunk.pth", "--channel", 15]
    out = tmp_path / "folder" / "positions.png"
    done = run_here(TOOL, out, *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(out)
    with Image.open(out) as picture:
        assert len(picture.convert("L").getcolors(256 * 256)) > 20


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--size", "100"), "--size 100: give a multiple of 32"),
        (("--weights", "missing.pth"), "missing.pth"),
        (("--weights", "WIDE", "--channel", "16"), "--channel 16: the embedding has 16"),
    ],
)
def test_mistakes_end_in_one_line(options: tuple[str, ...], says: str, tmp_path: Path, run_here: Any) -> None:
    torch.save(build_hiera("tiny", embed_dim=16, depths=(1, 1, 1, 1)).state_dict(), tmp_path / "trunk.pth")
    words = [tmp_path / "trunk.pth" if word == "WIDE" else word for word in options]
    done = run_here(TOOL, tmp_path / "out.png", *words)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert says in line
