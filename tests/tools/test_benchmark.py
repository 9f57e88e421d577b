"""The benchmark runs and tells the truth about equality; no time is asserted anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "benchmark.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)


def test_peers_are_compared_on_equal_weights(tmp_path: Path) -> None:
    rows_file = tmp_path / "rows.json"
    few = ["--size", "tiny", "--cases", "64x96x1", "--rounds", "1", "--warmup", "0"]
    done = run(*few, "--models", "official", "timm_windowed", "--json", str(rows_file))
    assert done.returncode == 0, done.stderr
    rows = json.loads(rows_file.read_text())
    assert [row["model"] for row in rows] == ["hiera_det", "official", "timm_windowed", "hiera_det_windowed"]
    assert all(row["median_ms"] > 0 and row["difference"] < 1e-5 for row in rows)
    assert done.stdout.count("| 64x96, 1 |") == 4


def test_flops_of_detectors_are_those_of_the_paper(run_here: Any) -> None:
    configs = [str(SCRIPT.parents[1] / "configs" / f"mask_rcnn_hiera_{size}.yaml") for size in ("b", "bplus", "l")]
    done = run_here(SCRIPT, "--flops", *configs)
    assert done.returncode == 0, done.stderr
    totals = [float(line.split("|")[-2]) for line in done.stdout.splitlines() if line.startswith("| mask_rcnn")]
    # Table 10 of the Hiera paper: 0.6, 0.6 and 1.2 T; the second is 0.66 here, and would round to 0.7.
    assert totals == pytest.approx([0.58, 0.66, 1.25], abs=0.005)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--cases", "100x64x1"], "100x64x1"),
        (["--cases", "64x64"], "write height x width x batch"),
        (["--size", "gigantic"], "gigantic"),
        (["--rounds", "0"], "--rounds"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments: list[str], says: str, run_here: Any) -> None:
    done = run_here(SCRIPT, *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert says in line
