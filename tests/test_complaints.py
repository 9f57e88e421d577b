"""What people stumble over (docs/complaints.md): its table names tests, and here are those that are of no room."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import setuptools

from hiera_det.d2.config.load import load_config
from hiera_det.errors import InputError

TESTS = Path(__file__).parent
ROOT = TESTS.parent
ROWS = re.findall(r"^\| (\d+) \|.*$", (ROOT / "docs" / "complaints.md").read_text(encoding="utf-8"), re.MULTILINE)
#: What is set up for developers, at versions of its own.
TOOLS = ("ruff", "mypy", "hiera-transformer", "mkdocs-material")


@pytest.fixture
def asked_of_setuptools(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **words: asked.update(words))
    runpy.run_path(str(ROOT / "setup.py"))
    return asked


def test_every_complaint_has_tests_that_are_there() -> None:
    page = (ROOT / "docs" / "complaints.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| \d+ \|.*$", page, re.MULTILINE)
    assert [int(row) for row in ROWS] == list(range(1, 29))
    for line in lines:
        named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", line)
        assert named, line
        for file, name in named:
            assert f"\ndef {name}(" in (TESTS / file).read_text(encoding="utf-8"), f"{file}::{name}"


def test_setting_up_needs_nothing_but_setuptools() -> None:
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"re", "pathlib", "setuptools"}
    needed = re.search(r"^requires = (.*)$", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert needed
    assert re.findall(r'"([a-z]+)', needed[1]) == ["setuptools"]


def test_no_requirement_of_users_has_an_upper_limit(asked_of_setuptools: dict[str, Any]) -> None:
    extras = asked_of_setuptools["extras_require"]
    requirements = {*asked_of_setuptools["install_requires"], *(one for some in extras.values() for one in some)}
    limited = {one for one in requirements if re.search(r"<|==|~=", one)}
    assert {re.split(r"[<=>~]", one)[0] for one in limited} <= set(TOOLS)
    assert "<" not in asked_of_setuptools["python_requires"]


def test_nothing_is_compiled(asked_of_setuptools: dict[str, Any]) -> None:
    assert not {"ext_modules", "cmdclass"} & asked_of_setuptools.keys()
    sources = [path for path in (ROOT / "hiera_det").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.suffix for path in sources} == {".py", ".jinja", ".typed"}
    builders = re.compile(r"cpp_extension import|load_inline|triton\.jit")
    assert not [path for path in sources if builders.search(path.read_text(encoding="utf-8"))]


def test_a_flag_among_the_keys_is_refused() -> None:
    with pytest.raises(InputError, match="flag --resume stands after the KEY VALUE pairs: put flags before them"):
        load_config("", ["SOLVER.MAX_ITER", "10", "--resume"])
