"""Packages that only some tools need are named with how to get them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from hiera_det.errors import InputError
from hiera_det.extras import need


def test_an_absent_package_is_one_line_with_the_command() -> None:
    with pytest.raises(InputError, match=r"^reading gold needs no_such_package: pip install gold-reader$"):
        need("no_such_package", "reading gold", "gold-reader")


def test_a_package_that_is_there_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_package_that_is_there.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    need("a_package_that_is_there", "reading gold")
    assert "a_package_that_is_there" not in sys.modules
    with pytest.raises(RuntimeError, match="imported"):  # so that importing it would have shown
        importlib.import_module("a_package_that_is_there")
