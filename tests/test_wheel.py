"""A wheel holds what a clone does for users: the commands, and the configs by their names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = "import sys, setuptools.build_meta as backend; print(backend.build_{}(sys.argv[1]))"


def built(kind: str, source: Path, out: Path) -> Path:
    """What setuptools makes of a folder of sources: a ``wheel`` or an ``sdist``."""
    command = [sys.executable, "-c", BUILD.format(kind), str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of the wheel of the sdist of a copy of the sources, as `python -m build` makes it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("hiera_det", "configs"):
        shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    for file in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / file, source)
    shutil.unpack_archive(built("sdist", source, out), out / "unpacked")
    (unpacked,) = (out / "unpacked").iterdir()
    zipfile.ZipFile(built("wheel", unpacked, out)).extractall(out / "site")
    return out / "site"


def run(installed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the wheel's content, away from the clone."""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=installed, env=environment, capture_output=True, text=True, check=False)


def test_the_commands_are_there(installed: Path) -> None:
    (points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "hiera-det = hiera_det.cli.main:main" in points.read_text()
    done = run(installed, "-m", "hiera_det", "train", "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: hiera-det train")


def test_every_config_is_there_and_found_by_name(installed: Path) -> None:
    in_clone = {
        str(path.relative_to(ROOT)) for kind in ("yaml", "py") for path in (ROOT / "configs").rglob(f"*.{kind}")
    }
    in_wheel = {
        str(path.relative_to(installed / "hiera_det")) for path in (installed / "hiera_det/configs").rglob("*.*")
    }
    assert in_wheel == in_clone
    code = (
        "from hiera_det.d2.config.files import find_config; from hiera_det.d2.config.load import load_config\n"
        "print(find_config('quick_start')); print(load_config('quick_start').MODEL.META_ARCHITECTURE)"
    )
    done = run(installed, "-c", code)
    assert done.stdout.split() == [str(installed / "hiera_det/configs/quick_start.yaml"), "GeneralizedRCNN"], (
        done.stderr
    )
