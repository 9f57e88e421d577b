"""The benchmark runs and tells the truth about equality; no time is asserted anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "benchmark.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)


def test_peers_are_compared_on_equal_weights(tmp_path: Path) -> None:
    rows_file = tmp_path / "rows.json"
    done = run("--size", "tiny", "--cases", "64x96x1", "--rounds", "1", "--warmup", "0", "--json", str(rows_file))
    assert done.returncode == 0, done.stderr
    rows = json.loads(rows_file.read_text())
    assert [row["model"] for row in rows] == ["hiera_det", "official", "timm"]
    assert all(row["median_ms"] > 0 and row["difference"] < 1e-5 for row in rows)
    assert done.stdout.count("| 64x96, 1 |") == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--cases", "100x64x1"], "100x64x1"),
        (["--cases", "64x64"], "write height x width x batch"),
        (["--size", "gigantic"], "gigantic"),
        (["--rounds", "0"], "--rounds"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments: list[str], says: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert says in line
